"""Merged nodes to config objects: types checked, paths expanded, ``__post_init__`` told about by line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from maskrcnn.config.nodes import DEFAULT, Bad, Map, Node, Origin, Problems, Scalar, Seq, is_null, join, show
from maskrcnn.config.registry import did_you_mean
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
    fault_of,
    fields_of,
)
from maskrcnn.config.text import format_plain, is_number, parse_plain
from maskrcnn.errors import few, plural

_BOOL_WORDS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_VARIABLE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{([^}]*)\}?")

#: The variable that is the folder of the file that names it.
_HERE = "HERE"

FAILED: Any = object()
"""Stands for an object that could not be built; why is among the problems."""


def build(spec: Spec, node: Node, path: str, problems: Problems) -> Any:
    """The object that ``node`` describes, or :data:`FAILED` with the reasons in ``problems``."""
    if isinstance(node, Bad):
        return FAILED
    match spec:
        case Maybe(inner):
            return None if is_null(node) else build(inner, node, path, problems)
        case Struct(cls) if isinstance(node, Map):
            return _struct(cls, node, path, problems)
        case Slot(registry) if isinstance(node, Map) and "type" in node.entries:
            kind = node.entries["type"].node
            assert isinstance(kind, Scalar)
            rest = {k: e for k, e in node.entries.items() if k != "type"}
            return _struct(registry.get(kind.text), Map(rest, node.where), path, problems)
        case ListOf(item) if isinstance(node, Seq):
            return _tuple([item] * len(node.items), node, path, problems)
        case Fixed(items) if isinstance(node, Seq):
            if len(items) != len(node.items):
                what = f"expected a list of {plural(len(items), 'item')}, got {len(node.items)}"
                problems.add(node.where, path, what)
                return FAILED
            return _tuple(list(items), node, path, problems)
        case DictOf(value) if isinstance(node, Map):
            built = {k: build(value, e.node, join(path, k), problems) for k, e in node.entries.items()}
            return FAILED if any(v is FAILED for v in built.values()) else built
        case OneOf(options):
            for option in options:
                trial = Problems()
                value = build(option, node, path, trial)
                if not trial:
                    return value
        case Choice(values) if isinstance(node, Scalar):
            return _choice(values, node, path, problems)
        case Leaf(kind) if isinstance(node, Scalar):
            value = _leaf(kind, node, path, problems)
            fault = fault_of(spec, value, path)
            if fault:
                problems.add(node.where, "", fault)
            return FAILED if fault else value
    hint = ""
    if isinstance(node, Map) and node.dotted:
        hint = f" of keys; there is no {next(iter(node.entries))!r} inside"
    if isinstance(spec, ListOf) and isinstance(node, Scalar) and not is_null(node):
        hint = f"; write [{node.text}]"
    if isinstance(spec, (Struct, DictOf)) and is_null(node):
        hint = "; give its keys, or remove this line to keep the defaults"
    problems.add(node.where, path, f"expected {describe(spec)}, got {show(node)}{hint}")
    return FAILED


def _tuple(specs: list[Spec], node: Seq, path: str, problems: Problems) -> Any:
    pairs = enumerate(zip(specs, node.items, strict=True))
    items = tuple(build(spec, item, join(path, i), problems) for i, (spec, item) in pairs)
    return FAILED if any(item is FAILED for item in items) else items


def _struct(cls: type, node: Map, path: str, problems: Problems) -> Any:
    values: dict[str, Any] = {}
    for name, field in fields_of(cls).items():
        if name in node.entries:
            values[name] = build(field.spec, node.entries[name].node, join(path, name), problems)
        elif field.required:
            problems.add(node.where, join(path, name), f"missing required key ({describe(field.spec)})")
            values[name] = FAILED
    if any(value is FAILED for value in values.values()):
        return FAILED
    try:
        return cls(**values)
    except ValueError as e:
        where, at = blame(str(e), node, path)
        problems.add(where, at, str(e).removeprefix(f"{at.rpartition('.')[2]}: "))  # it stands in front
        return FAILED


def blame(message: str, node: Map, path: str) -> tuple[Origin, str]:
    """The key that a ``__post_init__`` message speaks of: its first word that names a key someone set."""
    named = [w for w in re.findall(r"\w+", message) if w in node.entries]
    for word in named:
        where = node.entries[word].node.where
        if where != DEFAULT:
            return where, join(path, word)
    return node.where, join(path, named[0]) if named else path


def _choice(values: tuple[Any, ...], node: Scalar, path: str, problems: Problems) -> Any:
    for value in values:
        if node.value == value and type(node.value) is type(value):
            return value
    allowed = few(map(format_plain, values), 40)
    if isinstance(node.value, str) and any(parse_plain(node.text) == v for v in values):
        hint = f" Write it without quotes. Allowed: {allowed}"
    else:
        near = did_you_mean(node.text, map(format_plain, values)).partition(" Known:")[0]
        hint = f"{near} Allowed: {allowed}"
    problems.add(node.where, path, f"{show(node)} is not a choice.{hint}")
    return FAILED


def _leaf(kind: type, node: Scalar, path: str, problems: Problems) -> Any:
    value = node.value
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            problems.add(node.where, path, "too large a number")
            return FAILED
    if kind is Path and isinstance(value, str):
        return _path(value, node.where, path, problems)
    if type(value) is kind:
        return value
    hint = _leaf_hint(kind, node)
    problems.add(node.where, path, f"expected {describe(Leaf(kind))}, got {show(node)}{hint}")
    return FAILED


def _leaf_hint(kind: type, node: Scalar) -> str:
    value = node.value
    if kind is bool and isinstance(value, str) and value.lower() in _BOOL_WORDS:
        return f"; write {_BOOL_WORDS[value.lower()]}"
    if kind is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if kind in (int, float) and isinstance(value, str) and is_number(value):
        fits = isinstance(parse_plain(value), (int, float))
        return "; write it without quotes" if fits else "; it is too large"
    if kind in (str, Path) and value is not None:
        return f'; write "{node.text}" in quotes'
    return ""


def expand(text: str, here: Path | None = None) -> Path:
    """Expand ``${HERE}``, ``${NAME}``, ``${NAME:-fallback}`` and a leading ``~``; ``$${`` stands for ``${``.

    Args:
        text: as the config gives it.
        here: the folder of the file that gives it; None where no file does.

    Raises:
        ValueError: a variable that is not set and has no fallback, a ``${`` that no name and ``}`` follow, a
            ``${HERE}`` where no file is, or a ``~user`` that does not exist.
    """

    def value(match: re.Match[str]) -> str:
        escaped, name, fallback, malformed = match.groups()
        if escaped:
            return "${"
        if malformed is not None:
            raise ValueError(f"{match.group()!r} is not of the form ${{NAME}} or ${{NAME:-fallback}}")
        found = os.environ.get(name) if name != _HERE else str(here or "")
        if found:
            return found
        if fallback is None and name == _HERE:
            raise ValueError(
                f"${{{_HERE}}} is the folder of a config file, and this is in none; write the folder"
            )
        if fallback is None:
            advice = f"export it, or write ${{{name}:-fallback}}"
            raise ValueError(f"environment variable {name!r} is not set or empty; {advice}")
        return str(fallback)

    out = _VARIABLE.sub(value, text)
    try:
        return Path(out).expanduser() if out.startswith("~") else Path(out)
    except RuntimeError:
        raise ValueError(f"{out!r}: there is no such home folder") from None


def _path(text: str, where: Origin, path: str, problems: Problems) -> Any:
    if "\0" in text:
        problems.add(where, path, "a path cannot hold a NUL character")
        return FAILED
    try:
        return expand(text, where.folder)
    except ValueError as e:
        problems.add(where, path, str(e))
    return FAILED
