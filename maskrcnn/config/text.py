"""YAML text to nodes, and single values back to text.

YAML 1.2's core schema for plain values, where PyYAML has 1.1's: ``1e-4`` is a number; ``yes``, ``no``,
``on``, ``off`` and dates are strings.  Anchors, aliases and ``<<`` merge keys work; tags are refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from maskrcnn.config.nodes import Bad, Entry, Map, Node, Origin, Plain, Problems, Scalar, Seq, join
from maskrcnn.errors import ConfigError

_INT = re.compile(r"[-+]?(0|[1-9](_?[0-9])*)")
_DIGITS = r"[0-9](_?[0-9])*"
_FLOAT = re.compile(rf"(?=.*[.eE])[-+]?({_DIGITS}(\.({_DIGITS})?)?|\.{_DIGITS})([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Plain] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_SAFE = re.compile(r"(\.{0,2}/)?[A-Za-z0-9_]([A-Za-z0-9_./+=@%-]| (?=[A-Za-z0-9_./]))*")
_MAX_DIGITS = 300
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


_YAML_1_1 = yaml.SafeLoader("")


def parse_plain(text: str) -> Plain:
    """The value of an unquoted YAML scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not math.isinf(float(text)):  # 1e999 is a slip, not infinity
        return float(text)
    return text


def format_plain(value: Plain) -> str:
    """One value as YAML text that reads back as the same here, and by other people's YAML 1.1 readers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        mantissa, exponent, power = repr(value).replace("inf", ".inf").replace("nan", ".nan").partition("e")
        return mantissa + (".0" if exponent and "." not in mantissa else "") + exponent + power
    if isinstance(value, int):
        return str(value)
    is_text = isinstance(parse_plain(value), str) and (
        _YAML_1_1.resolve(yaml.ScalarNode, value, (True, False)) == _YAML_1_1.DEFAULT_SCALAR_TAG
    )
    if is_text and _SAFE.fullmatch(value):
        return value
    return '"' + "".join(_escape(c) for c in value) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~" or (char > "\xa0" and char.isprintable()):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def parse(
    text: str, name: str, problems: Problems, *, whole: Origin | None = None, folder: Path | None = None
) -> Node | None:
    """Read one YAML document.

    Args:
        text: the document.
        name: the file, as error messages show it.
        problems: receives duplicate keys and tags.
        whole: where given, every value gets this origin (a ``--set`` has no lines).
        folder: where the file lies, see :class:`Origin`.

    Returns:
        The root, or None where the document is empty.

    Raises:
        ConfigError: the text is no YAML.
    """

    def at(mark: Any) -> Origin:
        if whole is not None:
            return whole
        return Origin(name, mark.line + 1, mark.column + 1, folder) if mark else Origin(name)

    try:
        root = _Loader(text).get_single_node()
        return None if root is None else _Converter(at, problems).convert(root, "")
    except yaml.MarkedYAMLError as e:
        mark, reason = _reason(e)
        raise ConfigError(f"{at(mark)}: not valid YAML: {reason}") from None
    except yaml.reader.ReaderError as e:
        before = text[: e.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        where = whole or Origin(name, line, column)
        what = f"character U+{ord(text[e.position]):04X} is not allowed"
        raise ConfigError(f"{where}: not valid YAML: {what}") from None
    except RecursionError:
        raise ConfigError(f"{whole or name}: nested too deeply") from None


def _reason(e: yaml.MarkedYAMLError) -> tuple[Any, str]:
    """Where to look, and PyYAML's complaint in words for people who do not write parsers."""
    problem, context = e.problem or "syntax error", e.context or ""
    mark = e.problem_mark or e.context_mark
    opened = e.context_mark or mark
    if "'\\t'" in problem:
        return mark, "a tab; YAML is indented with spaces"
    if "cannot start any token" in problem:
        return mark, problem.replace("found character", "character").replace(
            "any token", "a value; put it in quotes"
        )
    if "expected a single document" in context:
        return mark, "a second document starts here ('---'); one file holds one config"
    if "mapping values are not allowed" in problem:
        return mark, "a ':' that does not fit here; check the indentation, or put the text in quotes"
    if "undefined alias" in problem:
        return mark, f"{problem}; a text that begins with '*' must be in quotes"
    if "quoted scalar" in context and "end of stream" in problem:
        return opened, "the quote that opens here is never closed"
    if "flow sequence" in context:
        return opened, "the '[' that opens here is not closed, or a ',' is missing after it"
    if "flow mapping" in context:
        return opened, "the '{' that opens here is not closed, or a ',' is missing after it"
    return mark, f"{context}, {problem}" if context else problem


def is_number(text: str) -> bool:
    """Whether ``text`` is written as a number, even one too large to represent."""
    return bool(_INT.fullmatch(text) or _FLOAT.fullmatch(text))


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
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self._problems.add(where, path, f"tags are not supported here; remove {tag!r}")
            return Bad(where)
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
