"""Config files in Python, as mmdetection's, read as data: nothing in them is run.

What there is of Python: assignments of numbers, texts, lists, tuples and dicts (``dict(...)`` too), names
that were assigned before or in a base file (``_base_.name`` in both versions' ways), ``**name``, sums, and
arithmetic on numbers.  All else is computed, and refused by its line.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.config.nodes import Entry, Map, Node, Origin, Scalar, Seq
from maskrcnn.config.text import format_plain
from maskrcnn.errors import ConfigError

#: Keys that steer how files are laid over each other.
BASE, DELETE = "_base_", "_delete_"
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
#: Longest list that a product may make, and values (and characters) of a config: names that hold names twice
#: grow without end.
_MOST, _LARGEST = 10_000, 100_000
#: Largest whole number; products of products have no end either.
_HIGHEST = 10**18


def read_python(path: Path, stack: tuple[Path, ...] = ()) -> Map:
    """The values of a file, laid over those of its bases.

    Raises:
        ConfigError: it cannot be read, is no Python, or computes something, by file:line.
    """
    real = path.resolve()
    if real in stack:
        raise ConfigError(f"{path}: {BASE} leads back to itself")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"{path}{line}: is no Python file ({error})") from None
    try:
        return _File(path, tree, (*stack, real)).values()
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


class _File:
    def __init__(self, path: Path, tree: ast.Module, stack: tuple[Path, ...]) -> None:
        self.path, self.tree, self.stack = path, tree, stack
        self.base = Map({}, Origin(str(path)))
        self.own: dict[str, Entry] = {}
        self.sizes: dict[int, tuple[Node, int]] = {}

    def values(self) -> Map:
        for statement in self.tree.body:
            self._statement(statement)
        return merge(self.base, Map(self.own, Origin(str(self.path))))

    def _at(self, node: ast.AST) -> Origin:
        return Origin(str(self.path), getattr(node, "lineno", 0), getattr(node, "col_offset", 0) + 1)

    def _wrong(self, node: ast.AST, what: str) -> ConfigError:
        return ConfigError(
            f"{self._at(node).short}: {what}, and a config is read as data here and never run; write values"
            " themselves, or begin with the nearest recipe of maskrcnn zoo"
        )

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            return
        if isinstance(node, (ast.With, ast.Import, ast.ImportFrom)):
            raise self._wrong(
                node, "this file imports modules, as Detectron2's LazyConfig does, so it is a program"
            )
        if not isinstance(node, ast.Assign):
            raise self._wrong(node, "this statement computes something")
        value = self._value(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == BASE:
                self._take_bases(value)
            elif isinstance(target, ast.Name):
                self.own[target.id] = Entry(self._at(node), value)
            else:
                self._assign_inside(target, value)

    def _assign_inside(self, target: ast.expr, value: Node) -> None:
        """``_base_.name.key = value``, and the same of a name of this file."""
        keys: list[str] = []
        inner = target
        while isinstance(inner, ast.Attribute):
            keys.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name) or not keys:
            raise self._wrong(target, "this statement computes something")
        keys = keys if inner.id == BASE else [inner.id, *keys]
        for key in reversed(keys[1:]):
            if isinstance(value, Map):  # it takes the place of what is there
                true = Scalar(True, "true", value.where)
                value = Map({**value.entries, DELETE: Entry(value.where, true)}, value.where)
            value = Map({key: Entry(self._at(target), value)}, self._at(target))
        changed = merge(
            Map(self.own, self._at(target)), Map({keys[0]: Entry(value.where, value)}, value.where)
        )
        self.own = dict(changed.entries)

    def _take_bases(self, value: Node) -> None:
        for item in value.items if isinstance(value, Seq) else (value,):
            if not isinstance(item, Scalar) or not isinstance(item.value, str):
                raise ConfigError(f"{value.where.short}: {BASE} must be a file, or a list of files")
            if "::" in item.value or "://" in item.value:
                raise ConfigError(
                    f"{item.where.short}: the base {item.value!r} lies in another package; write its file"
                )
            found = read_python(self.path.parent / item.value, self.stack)
            twice = [name for name in found.entries if name in self.base.entries]
            if twice:  # there it is an error too
                self.base = merge(self.base, found)
            else:
                self.base = Map({**self.base.entries, **found.entries}, self.base.where)

    def _value(self, node: ast.expr) -> Node:
        found = self._read(node)
        if self._size(found) > _LARGEST:
            raise self._wrong(node, "this value is larger than any config")
        return found

    def _size(self, node: Node) -> int:
        """Values and characters in it, however often names repeat them; the values are kept, so ids stay."""
        if id(node) not in self.sizes:
            inner: list[Node] = []
            if isinstance(node, Map):
                inner = [entry.node for entry in node.entries.values()]
            elif isinstance(node, Seq):
                inner = [*node.items]
            own = len(node.text) if isinstance(node, Scalar) else 1
            self.sizes[id(node)] = node, own + sum(map(self._size, inner))
        return self.sizes[id(node)][1]

    def _read(self, node: ast.expr) -> Node:
        where = self._at(node)
        if isinstance(node, ast.Constant):
            if node.value is None or isinstance(node.value, (bool, int, float, str)):
                return self._number(node, node.value)
            raise self._wrong(node, "this value is of no kind that a config has")
        if isinstance(node, (ast.List, ast.Tuple)):
            return Seq(tuple(self._value(item) for item in node.elts), where)
        if isinstance(node, ast.Dict):
            return self._dict(node, list(zip(node.keys, node.values, strict=True)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            if node.args:
                raise self._wrong(node, "dict(...) takes names alone here")
            named = [None if k.arg is None else ast.Constant(k.arg) for k in node.keywords]
            return self._dict(node, [*zip(named, (k.value for k in node.keywords), strict=True)])
        if isinstance(node, ast.Set):  # {{_base_.name}}
            return self._reference(node)
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
            return self._named(node)
        return self._computed(node)

    def _computed(self, node: ast.expr) -> Node:
        """Signs and sums."""
        where = self._at(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            inner = self._value(node.operand)
            if isinstance(inner, Scalar) and isinstance(inner.value, (int, float)):
                return self._constant(-inner.value if isinstance(node.op, ast.USub) else inner.value, where)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return self._sum(node)
        raise self._wrong(node, "this value is computed")

    def _number(self, node: ast.expr, value: Any) -> Scalar:
        """A text, or a number that is bounded."""
        if isinstance(value, int) and abs(value) > _HIGHEST:
            raise self._wrong(node, "this number is larger than any config's")
        return self._constant(value, self._at(node))

    def _constant(self, value: Any, where: Origin) -> Scalar:
        return Scalar(value, value if isinstance(value, str) else format_plain(value), where)

    def _dict(self, node: ast.expr, pairs: Sequence[tuple[ast.expr | None, ast.expr]]) -> Map:
        entries: dict[str, Entry] = {}
        for key, value in pairs:
            found = self._value(value)
            if key is None:
                if not isinstance(found, Map):
                    raise self._wrong(value, "** takes a dict")
                entries.update(found.entries)
            elif isinstance(key, ast.Constant) and isinstance(key.value, (str, int)):
                entries[str(key.value)] = Entry(self._at(value), found)
            else:
                raise self._wrong(value, "the name of this value is computed")
        return Map(entries, self._at(node))

    def _reference(self, node: ast.Set) -> Node:
        inner = node.elts[0] if len(node.elts) == 1 else node
        inner = inner.elts[0] if isinstance(inner, ast.Set) and len(inner.elts) == 1 else inner
        if isinstance(inner, (ast.Attribute, ast.Subscript)):
            return self._named(inner)
        raise self._wrong(node, "a set is no value of a config")

    def _named(self, node: ast.expr) -> Node:
        """A name that was assigned, ``_base_.name``, or an item of either."""
        if isinstance(node, ast.Name):
            entry = self.own.get(node.id) or self.base.entries.get(node.id)
            if node.id == BASE:
                return self.base
            if entry is None:
                raise self._wrong(node, f"{node.id} is assigned nowhere before")
            return entry.node
        assert isinstance(node, (ast.Attribute, ast.Subscript))
        if isinstance(node, ast.Attribute):
            outer, key = self._named_or_refused(node.value), node.attr
        else:
            outer, index = self._named_or_refused(node.value), self._value(node.slice)
            key = str(index.value) if isinstance(index, Scalar) else ""
        if isinstance(outer, Map) and key in outer.entries:
            return outer.entries[key].node
        if (
            isinstance(outer, Seq)
            and key.lstrip("-").isdigit()
            and -len(outer.items) <= int(key) < len(outer.items)
        ):
            return outer.items[int(key)]
        raise self._wrong(node, f"there is no value {ast.unparse(node)}")

    def _named_or_refused(self, node: ast.expr) -> Node:
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
            return self._named(node)
        raise self._wrong(node, "this value is computed")

    def _sum(self, node: ast.BinOp) -> Node:
        left, right, where = self._value(node.left), self._value(node.right), self._at(node)
        if isinstance(left, Seq) and isinstance(right, Seq) and isinstance(node.op, ast.Add):
            return Seq((*left.items, *right.items), where)
        if isinstance(left, Seq) and isinstance(right, Scalar) and isinstance(node.op, ast.Mult):
            times = right.value
            if isinstance(times, int) and 0 <= times * len(left.items) <= _MOST:
                return Seq(left.items * times, where)
        if isinstance(left, Scalar) and isinstance(right, Scalar):
            a, b = left.value, right.value
            texts = isinstance(a, str) and isinstance(b, str) and isinstance(node.op, ast.Add)
            numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
            if numbers and b == 0 and isinstance(node.op, (ast.Div, ast.FloorDiv)):
                raise self._wrong(node, "this divides by 0")
            if texts or numbers:
                try:
                    return self._number(node, _ARITHMETIC[type(node.op)](a, b))
                except OverflowError:
                    raise self._wrong(node, "this number is larger than any config's") from None
        raise self._wrong(node, "this value is computed")


def merge(old: Map, new: Map) -> Map:
    """``new`` over ``old``: dicts key by key, unless they say ``_delete_``; lists by index by such keys."""
    entries = dict(old.entries)
    for key, entry in new.entries.items():
        before = entries.get(key)
        entries[key] = entry
        if isinstance(entry.node, Map):
            delete = entry.node.entries.get(DELETE)
            own = {k: v for k, v in entry.node.entries.items() if k != DELETE}
            mine = Map(own, entry.node.where)
            replaced = delete is not None and isinstance(delete.node, Scalar) and bool(delete.node.value)
            if before is not None and isinstance(before.node, Map) and not replaced:
                mine = merge(before.node, mine)
            elif (
                before is not None and isinstance(before.node, Seq) and own and all(k.isdigit() for k in own)
            ):
                entries[key] = Entry(entry.key_where, _by_index(before.node, mine))
                continue
            entries[key] = Entry(entry.key_where, mine)
    return Map(entries, new.where)


def _by_index(old: Seq, new: Map) -> Seq:
    named = Map({str(i): Entry(item.where, item) for i, item in enumerate(old.items)}, old.where)
    return Seq(tuple(entry.node for entry in merge(named, new).entries.values()), old.where)
