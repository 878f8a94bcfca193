"""Files, ``base:``, plugins and ``--set`` to one validated config object."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from maskrcnn.config.construct import FAILED, blame, build
from maskrcnn.config.encode import defaults_of, dump
from maskrcnn.config.merge import Merger
from maskrcnn.config.nodes import DEFAULT, Entry, Map, Node, Origin, Problems, Seq
from maskrcnn.config.plugins import import_plugins, refuse_untrusted
from maskrcnn.config.reader import Reader, override
from maskrcnn.config.schema import Struct, fields_of

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A config object, and where each of its values was set."""

    value: T
    tree: Map
    """The merged values before building; every node carries its origin."""
    files: tuple[Path, ...]
    """Every file read, bases first (resolved paths)."""
    places: Mapping[str, Path] = field(default_factory=dict)
    """The file behind each name that an origin bears."""

    def origin(self, path: str) -> Origin:
        """Where the value at a key path (``model.roi_op.type``) was set.

        A value inside a list or a mapping written as a whole has the whole's origin.
        """
        node, _ = self._node(path)
        return DEFAULT if node is self.tree else node.where

    def _node(self, path: str) -> tuple[Node, bool]:
        """The node at a key path, or the nearest around it; whether it is that of the path itself."""
        node: Node = self.tree
        for part in path.split("."):
            if isinstance(node, Map) and part in node.entries:
                node = node.entries[part].node
            elif isinstance(node, Seq) and part.isdigit() and int(part) < len(node.items):
                node = node.items[int(part)]
            else:
                return node, False
        return node, True

    def blame(self, message: str) -> Origin:
        """Where the first key that a message names by its path was set; the file where nobody set one.

        Of a path that leads to a part it is the key in it that the message names, or else the part.
        """
        for path in re.findall(r"\w+(?:\.\w+)+", message):
            node, found = self._node(path)
            where = blame(message, node, path)[0] if isinstance(node, Map) else node.where
            if found and where != DEFAULT:
                return where
        return Origin(self.tree.where.name)

    def file_of(self, path: str) -> Path | None:
        """The file that set the value at a key path; None where none did."""
        return self.places.get(self.origin(path).name)

    def render(self) -> str:
        """The config as YAML with a comment at each value that says where it was set."""
        return dump(self.value, self.origin)


def load(cls: type[T], path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> T:
    """Read ``path`` (following ``base:``), apply ``a.b=c`` overrides, return a validated ``cls``.

    Raises:
        ConfigError: anything is wrong; one line a fault, ``file:line:column: key.path: what, what to do``.
    """
    return load_traced(cls, path, overrides).value


def load_traced(cls: type[T], path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Loaded[T]:
    """Like :func:`load`, and remembers where each value was set.

    Raises:
        ConfigError: as :func:`load`.
    """
    problems = Problems()
    reader = Reader(problems)
    reader.read(Path(path), None, ())
    return _finish(cls, reader, overrides, problems)


def loads(cls: type[T], text: str, name: str = "<config>", overrides: Sequence[str] = ()) -> T:
    """Read a config from text, such as :func:`dump` wrote into a checkpoint.

    Args:
        cls: the schema.
        text: YAML; it must be complete in itself (no ``base:``).
        name: what error messages call it.
        overrides: ``a.b=c``, as for :func:`load`.

    Raises:
        ConfigError: as :func:`load`; or the text names plugins that were neither imported before nor named in
            ``overrides``: text out of a checkpoint must not run code.
    """
    problems = Problems()
    reader = Reader(problems)
    reader.add_text(text, name)
    refuse_untrusted(reader.plugins, overrides)
    return _finish(cls, reader, overrides, problems, silent=(name,)).value


def _finish(
    cls: type[T], reader: Reader, overrides: Sequence[str], problems: Problems, silent: Sequence[str] = ()
) -> Loaded[T]:
    for item in overrides:
        reader.add(override(item, problems))
    import_plugins(reader.plugins, [file.parent for file in reversed(reader.files)])
    merger = Merger(cls, problems, silent)
    tree: Node = Map(defaults_of(cls).entries, Origin(reader.name))
    for layer in reader.layers:
        tree = merger.merge(Struct(cls), tree, layer)
    assert isinstance(tree, Map)
    if reader.plugins and "plugins" in fields_of(cls):
        names = tuple(reader.plugins)
        union = Seq(names, names[-1].where)
        tree = Map({**tree.entries, "plugins": Entry(union.where, union)}, tree.where)
    value = build(Struct(cls), tree, "", problems)
    problems.raise_if_any()
    assert value is not FAILED
    return Loaded(value, tree, tuple(reader.files), reader.places)
