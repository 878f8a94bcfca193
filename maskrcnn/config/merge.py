"""Lay one file's values over what came before: defaults, then ``base:`` files, the file, ``--set``.

Mappings merge key by key and lists replace.  A slot keeps its options while its ``type`` stays the
same, and starts from the new type's defaults when it changes, so the old part's options never leak.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from maskrcnn.config.encode import defaults_of
from maskrcnn.config.nodes import (
    DEFAULT,
    Bad,
    Entry,
    Map,
    Node,
    Origin,
    Problems,
    Scalar,
    Seq,
    is_null,
    join,
    show,
)
from maskrcnn.config.registry import Registry, did_you_mean
from maskrcnn.config.schema import (
    DictOf,
    Fixed,
    ListOf,
    Maybe,
    Slot,
    Spec,
    Struct,
    fields_of,
    paths_named,
)
from maskrcnn.errors import few

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merger:
    """Merges layers for one schema and collects what is wrong with their keys.

    root: the schema's class, searched to say where a misplaced key belongs.
    problems: receives unknown keys, unknown types, bad list indices.
    silent: names of texts whose old names of keys need no warning: nobody edits them.
    """

    root: type
    problems: Problems
    silent: Collection[str] = ()

    def merge(self, spec: Spec, old: Node | None, new: Node, path: str = "") -> Node:
        """``new`` over ``old`` (None: nothing was there, or it does not matter any more)."""
        if old is not None and (is_null(old) or isinstance(old, Bad)):
            old = None
        match spec:
            case Maybe(inner):
                return new if is_null(new) else self.merge(inner, old, new, path)
            case Struct(cls) if isinstance(new, Map):
                base = old if isinstance(old, Map) else defaults_of(cls, path)
                return self._struct(cls, base, new, path)
            case Slot(registry):
                return self._slot(registry, old if isinstance(old, Map) else None, new, path)
            case ListOf(_) | Fixed(_):
                return self._list(spec, old, new, path)
            case DictOf(value) if isinstance(new, Map):
                return self._dict(value, old, new, path)
            case _:
                return new

    def _struct(self, cls: type, old: Map, new: Map, path: str, *, of: Registry[Any] | None = None) -> Map:
        fields = fields_of(cls)
        entries = dict(old.entries)
        for key, (key_where, node) in new.entries.items():
            key = self._renamed(cls, key, key_where, new, path)
            if key not in fields:
                options = [*fields, "type"] if of is not None else list(fields)
                hint = did_you_mean(key, options) + self._belongs(key, path, of)
                self.problems.add(key_where, join(path, key), f"unknown key.{hint}")
                continue
            before = entries[key].node if key in entries else None
            entries[key] = Entry(key_where, self.merge(fields[key].spec, before, node, join(path, key)))
        return Map(entries, _where(old, new))

    def _renamed(self, cls: type, key: str, where: Origin, new: Map, path: str) -> str:
        """The name of today of a key that had another one (``RENAMED`` of its class: old -> new)."""
        today: str | None = getattr(cls, "RENAMED", {}).get(key)
        if today is None:
            return key
        if today in new.entries:
            what = f"is the old name of {today!r}, which is given too; leave it out"
            self.problems.add(where, join(path, key), what)
        elif where.name not in self.silent:
            logger.warning("%s: %s: this key is now called %r; rename it", where, join(path, key), today)
        return today

    def _belongs(self, key: str, path: str, registry: Registry[Any] | None) -> str:
        """Where an unknown key would be right: another type of the same slot, or elsewhere in the schema."""
        if registry is not None:
            owners = [n for n in registry.names() if key in fields_of(registry.get(n))]
            return f". {key!r} is an option of {few(owners)}" if owners else ""
        homes = [p for p in paths_named(self.root, key) if p != join(path, key)]
        return f". There is {few(map(repr, homes))}" if homes else ""

    def _slot(self, registry: Registry[Any], old: Map | None, new: Node, path: str) -> Node:
        if isinstance(new, Bad):
            return new
        if isinstance(new, Scalar) and not is_null(new):  # `roi_op: roi_pool` is `roi_op: {type: roi_pool}`
            new = Map({"type": Entry(new.where, new)}, new.where)
        known = did_you_mean("", registry.names())
        if not isinstance(new, Map):
            what = f"a {registry.slot} is a name or a mapping with a 'type', got {show(new)}."
            return self._bad(new.where, path, what + known)
        options = Map({k: e for k, e in new.entries.items() if k != "type"}, new.where, new.dotted)
        kind = new.entries.get("type") or (old.entries.get("type") if old is not None else None)
        if kind is None:
            what = f"nothing says which {registry.slot} this is; give a 'type'."
            return self._bad(new.where, path, what + known)
        if not isinstance(kind.node, Scalar) or is_null(kind.node):
            what = f"expected the name of a {registry.slot}, got {show(kind.node)}."
            return self._bad(kind.node.where, join(path, "type"), what + known)
        try:
            cls = registry.get(kind.node.text)
        except KeyError as e:
            return self._bad(kind.node.where, path, str(e.args[0]))
        if "type" in fields_of(cls):
            what = f"{cls.__qualname__} has a field 'type', which chooses between parts; rename the field"
            return self._bad(kind.node.where, path, what)
        base = defaults_of(cls, path)
        if old is not None:
            before = old.entries["type"].node
            if isinstance(before, Scalar) and registry.get(before.text) is cls:
                base = Map({k: e for k, e in old.entries.items() if k != "type"}, old.where)
        merged = self._struct(cls, base, options, path, of=registry)
        return Map({"type": kind, **merged.entries}, merged.where)

    def _list(self, spec: ListOf | Fixed, old: Node | None, new: Node, path: str) -> Node:
        if isinstance(new, Seq):
            items = (self.merge(_item(spec, i), None, n, join(path, i)) for i, n in enumerate(new.items))
            return Seq(tuple(items), new.where)
        if not (isinstance(new, Map) and new.dotted):
            return new
        if not isinstance(old, Seq):
            (key,) = new.entries
            return self._bad(new.where, path, f"there is no list yet, so no item {key!r}; set the whole list")
        changed = list(old.items)
        for key, (where, node) in new.entries.items():
            if not (key.isascii() and key.isdigit() and int(key) < len(changed)):
                span = f"0 to {len(changed) - 1}" if changed else "none, the list is empty"
                self.problems.add(where, join(path, key), f"no such list item; there are {span}")
                continue
            changed[int(key)] = self.merge(_item(spec, int(key)), changed[int(key)], node, join(path, key))
        return Seq(tuple(changed), new.where)

    def _dict(self, spec: Spec, old: Node | None, new: Map, path: str) -> Map:
        """A file's mapping replaces the default, adds to its bases'; a dotted ``--set`` adds to either."""
        keep = isinstance(old, Map) and (new.dotted or old.where != DEFAULT)
        entries = dict(old.entries) if keep and isinstance(old, Map) else {}
        for key, (key_where, node) in new.entries.items():
            before = entries[key].node if key in entries else None
            entries[key] = Entry(key_where, self.merge(spec, before, node, join(path, key)))
        return Map(entries, _where(old, new))

    def _bad(self, where: Origin, path: str, what: str) -> Bad:
        self.problems.add(where, path, what)
        return Bad(where)


def _item(spec: ListOf | Fixed, index: int) -> Spec:
    if isinstance(spec, ListOf):
        return spec.item
    return spec.items[min(index, len(spec.items) - 1)]  # a wrong length is told by build()


def _where(old: Node | None, new: Map) -> Origin:
    """A mapping's place is where a file last touched it; a ``--set`` into it does not move it."""
    return old.where if new.dotted and old is not None and old.where != DEFAULT else new.where
