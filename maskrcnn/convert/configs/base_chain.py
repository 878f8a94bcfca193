"""Detectron2's YAML files: ``_BASE_`` chains, laid over each other key by key."""

from __future__ import annotations

from pathlib import Path

from maskrcnn.config.nodes import Entry, Map, Origin, Problems, Scalar
from maskrcnn.config.text import parse
from maskrcnn.errors import ConfigError

BASE = "_BASE_"


def read_chain(path: Path, stack: tuple[Path, ...] = ()) -> Map:
    """The values of a file, laid over those of its bases.

    Raises:
        ConfigError: a file cannot be read, or is no YAML mapping, by file:line.
    """
    real = path.resolve()
    if real in stack:
        raise ConfigError(f"{path}: {BASE} leads back to itself")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
    problems = Problems()
    root = parse(text, str(path), problems)
    problems.raise_if_any()
    if root is None:
        root = Map({}, Origin(str(path)))
    if not isinstance(root, Map):
        raise ConfigError(f"{path}: is no config of Detectron2, which is a mapping of keys")
    base = root.entries.get(BASE)
    own = Map({key: entry for key, entry in root.entries.items() if key != BASE}, Origin(str(path)))
    if base is None:
        return own
    if not isinstance(base.node, Scalar) or not isinstance(base.node.value, str) or "://" in base.node.value:
        raise ConfigError(f"{base.node.where}: {BASE} must be one file, beside this one or by its path")
    return _over(read_chain(path.parent / base.node.value, (*stack, real)), own)


def _over(old: Map, new: Map) -> Map:
    entries = dict(old.entries)
    for key, entry in new.entries.items():
        before = entries.get(key)
        both = before is not None and isinstance(before.node, Map) and isinstance(entry.node, Map)
        if both:
            assert before is not None and isinstance(before.node, Map) and isinstance(entry.node, Map)
            entries[key] = Entry(entry.key_where, _over(before.node, entry.node))
        else:
            entries[key] = entry
    return Map(entries, new.where)
