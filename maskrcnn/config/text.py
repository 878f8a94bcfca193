"""YAML text to nodes, and single values back to text.

YAML 1.2's core schema for plain values, where PyYAML has 1.1's: ``1e-4`` is a number; ``yes``, ``no``,
``on``, ``off`` and dates are strings.  Anchors, aliases and ``<<`` merge keys work; tags are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from maskrcnn.config.nodes import Entry, Map, Node, Origin, Plain, Problems, Scalar, Seq, join
from maskrcnn.errors import ConfigError

_INT = re.compile(r"[-+]?(0|[1-9](_?[0-9])*)")
_FLOAT = re.compile(r"[-+]?([0-9](_?[0-9])*(\.([0-9](_?[0-9])*)?)?|\.[0-9](_?[0-9])*)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Plain] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_SAFE = re.compile(r"[A-Za-z0-9_./+-]([A-Za-z0-9_./+=@%-]| (?=[A-Za-z0-9_./]))*")
_PLAIN_TAG = "plain"
_QUOTED_TAG = "quoted"
_MAX_NODES = 100_000
"""Far above any config; stops a file whose aliases multiply ("billion laughs")."""


class _Loader(yaml.SafeLoader):
    """Composes nodes, and marks which scalars were plain, which quoted, and which carry a tag."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN_TAG if implicit[0] else _QUOTED_TAG
        return "collection"


def parse_plain(text: str) -> Plain:
    """The value of an unquoted YAML scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def format_plain(value: Plain) -> str:
    """One value as YAML text that :func:`parse_plain` (or a quoted scalar) reads back as the same."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, int):
        return str(value)
    if _SAFE.fullmatch(value) and isinstance(parse_plain(value), str) and not value.startswith("--"):
        return value
    return '"' + "".join(_escape(c) for c in value) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~" or (char > "\xa0" and char.isprintable()):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def parse(text: str, name: str, problems: Problems, *, whole: Origin | None = None) -> Node | None:
    """Read one YAML document.

    Args:
        text: the document.
        name: the file, as error messages show it.
        problems: receives duplicate keys and tags.
        whole: where given, every value gets this origin (a ``--set`` has no lines).

    Returns:
        The root, or None where the document is empty.

    Raises:
        ConfigError: the text is no YAML.
    """

    def at(mark: Any) -> Origin:
        if whole is not None:
            return whole
        return Origin(name, mark.line + 1, mark.column + 1) if mark else Origin(name)

    try:
        root = _Loader(text).get_single_node()
        return None if root is None else _Converter(at, problems).convert(root, "")
    except yaml.MarkedYAMLError as e:
        where = at(e.problem_mark or e.context_mark)
        raise ConfigError(f"{where}: not valid YAML: {_reason(e)}") from None
    except yaml.reader.ReaderError as e:
        before = text[: e.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        where = whole or Origin(name, line, column)
        what = f"character U+{ord(text[e.position]):04X} is not allowed"
        raise ConfigError(f"{where}: not valid YAML: {what}") from None
    except RecursionError:
        raise ConfigError(f"{whole or name}: nested too deeply") from None


def _reason(e: yaml.MarkedYAMLError) -> str:
    problem = e.problem or "syntax error"
    if "'\\t'" in problem:
        return "a tab; YAML is indented with spaces"
    if e.context and "expected a single document" in e.context:
        return "a second document starts here ('---'); one file holds one config"
    if "mapping values are not allowed" in problem:
        return "a ':' that does not fit here; check the indentation, or put the text in quotes"
    return f"{e.context}, {problem}" if e.context else problem


class _Converter:
    """PyYAML nodes to ours: values parsed, duplicates found, merge keys flattened."""

    def __init__(self, at: Any, problems: Problems) -> None:
        self._at = at
        self._problems = problems
        self._open: set[int] = set()
        self._count = 0

    def convert(self, node: yaml.Node, path: str) -> Node:
        where: Origin = self._at(node.start_mark)
        self._count += 1
        if self._count > _MAX_NODES:
            raise ConfigError(f"{where}: more than {_MAX_NODES} values; do aliases multiply?")
        if id(node) in self._open:
            raise ConfigError(f"{where}: {path}: an alias (*name) refers to the value that contains it")
        if node.tag not in (_PLAIN_TAG, _QUOTED_TAG, "collection"):
            self._problems.add(where, path, f"tags are not supported here; remove {_show_tag(node.tag)!r}")
        if isinstance(node, yaml.ScalarNode):
            value = node.value if node.tag != _PLAIN_TAG else parse_plain(node.value)
            return Scalar(value, node.value, where)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                items = (self.convert(item, join(path, i)) for i, item in enumerate(node.value))
                return Seq(tuple(items), where)
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, where, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, where: Origin, path: str) -> Map:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            key_where: Origin = self._at(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                self._problems.add(key_where, path, "a key must be a single word, not a list or a mapping")
            elif key.value == "<<" and key.tag == _PLAIN_TAG:
                for name, entry in self._merge_key(value, path).items():
                    merged.setdefault(name, entry)
            elif key.value in entries:
                first = entries[key.value].key_where
                self._problems.add(key_where, join(path, key.value), f"given twice (first at {first})")
            else:
                entries[key.value] = Entry(key_where, self.convert(value, join(path, key.value)))
        return Map({**merged, **entries}, where)

    def _merge_key(self, node: yaml.Node, path: str) -> dict[str, Entry]:
        """``<<: *a`` or ``<<: [*a, *b]``: keys that the mapping does not give itself; the first wins."""
        out: dict[str, Entry] = {}
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            converted = self.convert(source, join(path, "<<"))
            if not isinstance(converted, Map):
                self._problems.add(converted.where, join(path, "<<"), "expected a mapping (an alias of one)")
                continue
            for name, entry in converted.entries.items():
                out.setdefault(name, entry)
        return out


def _show_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
