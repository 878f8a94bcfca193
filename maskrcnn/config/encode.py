"""Config objects back to nodes, to YAML text, and to a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from maskrcnn.config.nodes import DEFAULT, Entry, Map, Node, Origin, Scalar, Seq, join
from maskrcnn.config.schema import (
    Choice,
    DictOf,
    Fixed,
    Leaf,
    ListOf,
    Maybe,
    OneOf,
    Slot,
    Spec,
    Struct,
    describe,
    fields_of,
)
from maskrcnn.config.text import format_plain

_COMMENT_COLUMN = 56


def encode(spec: Spec, value: Any, path: str = "") -> Node:
    """The nodes that build to ``value`` again; their origin is ``default``.

    Raises:
        TypeError: the object holds what its annotations do not allow.
    """
    match spec:
        case Maybe(inner):
            return _scalar(None) if value is None else encode(inner, value, path)
        case Struct(cls) if type(value) is cls:
            return Map(_fields(cls, value, path), DEFAULT)
        case Slot(registry):
            try:
                name = registry.name_of(type(value))
            except KeyError as e:
                raise TypeError(f"{path}: {e.args[0]}") from None
            kind = {"type": Entry(DEFAULT, _scalar(name))}
            return Map({**kind, **_fields(type(value), value, path)}, DEFAULT)
        case ListOf(item) if isinstance(value, (tuple, list)):
            return Seq(tuple(encode(item, v, join(path, i)) for i, v in enumerate(value)), DEFAULT)
        case Fixed(items) if isinstance(value, (tuple, list)) and len(value) == len(items):
            pairs = zip(items, value, strict=True)
            return Seq(tuple(encode(s, v, join(path, i)) for i, (s, v) in enumerate(pairs)), DEFAULT)
        case DictOf(inner) if isinstance(value, Mapping):
            entries = {k: Entry(DEFAULT, encode(inner, v, join(path, k))) for k, v in value.items()}
            return Map(entries, DEFAULT)
        case Choice(values) if any(value == v and type(value) is type(v) for v in values):
            return _scalar(value)
        case OneOf(options):
            for option in options:
                try:
                    return encode(option, value, path)
                except TypeError:
                    continue
        case Leaf(kind):
            if kind is float and type(value) is int:
                value = float(value)
            if kind is Path and isinstance(value, Path):
                return _scalar(escape_path(str(value)))
            if kind is not Path and type(value) is kind:
                return _scalar(value)
    raise TypeError(f"{path}: expected {describe(spec)}, got {value!r}")


def _fields(cls: type, value: Any, path: str) -> dict[str, Entry]:
    nodes = {n: encode(f.spec, getattr(value, n), join(path, n)) for n, f in fields_of(cls).items()}
    return {name: Entry(DEFAULT, node) for name, node in nodes.items()}


def _scalar(value: Any) -> Scalar:
    return Scalar(value, format_plain(value), DEFAULT)


def defaults_of(cls: type, path: str = "") -> Map:
    """The defaults of a config dataclass; required keys are absent."""
    optional = (f for f in fields_of(cls).values() if not f.required)
    return Map(
        {f.name: Entry(DEFAULT, encode(f.spec, f.default(), join(path, f.name))) for f in optional}, DEFAULT
    )


def escape_path(text: str) -> str:
    """A path whose literal ``${`` or leading ``~`` is not expanded when it is read again."""
    text = text.replace("${", "$${")
    return f"./{text}" if text.startswith("~") else text


def dump(obj: Any, origin_of: Callable[[str], Origin] | None = None) -> str:
    """The whole config as YAML text, every value given; :func:`maskrcnn.config.loads` reads it back.

    The same object always gives the same text.

    Args:
        obj: the config.
        origin_of: key path (``model.roi_op.type``) -> where its value was set, for a comment beside it.

    Raises:
        TypeError: ``obj`` holds what its annotations do not allow.
    """
    lines: list[str] = []
    for text, path in _lines(encode(Struct(type(obj)), obj), "", ""):
        comment = "" if origin_of is None or path is None else origin_of(path).short.replace("\n", " ")
        lines.append(f"{text:<{_COMMENT_COLUMN}}  # {comment}" if comment else text)
    return "\n".join(lines) + "\n" if lines else "{}\n"


def one_line(spec: Spec, value: Any) -> str:
    """A value as YAML in one line, which builds to it again."""
    return _flow(encode(spec, value))


def flatten(obj: Any) -> dict[str, str]:
    """Every value by key path, as YAML text; lists of single values are one value."""
    return dict(_walk(encode(Struct(type(obj)), obj), ""))


def fingerprint(obj: Any, ignore: Collection[str] = ()) -> str:
    """Twelve hex digits that are equal for equal configs, on every machine and in every run.

    Args:
        obj: the config.
        ignore: key paths that do not count, with all below them (``output``, ``train.workers``).
    """

    def counts(path: str) -> bool:
        return not any(path == i or path.startswith(i + ".") for i in ignore)

    text = "\n".join(f"{path}={value}" for path, value in sorted(flatten(obj).items()) if counts(path))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _walk(node: Node, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Map) and node.entries:
        for key, entry in node.entries.items():
            yield from _walk(entry.node, join(path, key))
    elif isinstance(node, Seq) and _is_block(node):
        for i, item in enumerate(node.items):
            yield from _walk(item, join(path, i))
    else:
        yield path, _flow(node)


def _is_block(node: Node) -> bool:
    """Lists of mappings get a line a key; other lists stay on one line."""
    if isinstance(node, Map):
        return bool(node.entries)
    if not isinstance(node, Seq) or not node.items:
        return False
    return all(isinstance(item, Map) and item.entries for item in node.items)


def _lines(node: Node, indent: str, path: str) -> Iterator[tuple[str, str | None]]:
    """Text lines of a block mapping or list, each with the key path that it sets (None: only opens)."""
    if isinstance(node, Map):
        for key, entry in node.entries.items():
            here, head = join(path, key), f"{indent}{format_plain(key)}:"
            if not _is_block(entry.node):
                yield f"{head} {_flow(entry.node)}", here
            else:
                yield head, None
                yield from _lines(entry.node, indent + "  ", here)
    elif isinstance(node, Seq):
        for i, item in enumerate(node.items):
            dash = f"{indent}- "
            for text, at in _lines(item, indent + "  ", join(path, i)):
                yield dash + text[len(dash) :], at
                dash = indent + "  "


def _flow(node: Node) -> str:
    if isinstance(node, Map):
        return "{" + ", ".join(f"{format_plain(k)}: {_flow(e.node)}" for k, e in node.entries.items()) + "}"
    if isinstance(node, Seq):
        return "[" + ", ".join(_flow(i) for i in node.items) + "]"
    assert isinstance(node, Scalar)
    return format_plain(node.value)
