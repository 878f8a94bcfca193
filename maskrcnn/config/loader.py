"""Files, ``base:``, plugins and ``--set`` to one validated config object."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from maskrcnn.config.build import FAILED, build, expand
from maskrcnn.config.encode import defaults_of, dump_traced
from maskrcnn.config.merge import Merger
from maskrcnn.config.nodes import DEFAULT, Entry, Map, Node, Origin, Problems, Scalar, Seq, show
from maskrcnn.config.registry import did_you_mean
from maskrcnn.config.schema import Struct, fields_of
from maskrcnn.config.text import parse
from maskrcnn.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A config object, and where each of its values was set."""

    value: T
    tree: Map
    """The merged values before building; every node carries its origin."""
    files: tuple[Path, ...]
    """Every file read, bases first (resolved paths)."""

    def origin(self, path: str) -> Origin:
        """Where the value at a key path (``model.roi_op.type``) was set.

        A value inside a list or a mapping written as a whole has the whole's origin.
        """
        node: Node = self.tree
        for part in path.split("."):
            if isinstance(node, Map) and part in node.entries:
                node = node.entries[part].node
            elif isinstance(node, Seq) and part.isdigit() and int(part) < len(node.items):
                node = node.items[int(part)]
            else:
                break
        return DEFAULT if node is self.tree else node.where

    def render(self) -> str:
        """The config as YAML with a comment at each value that says where it was set."""
        return dump_traced(self.value, self.origin)


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
    reader = _Reader(problems)
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
        ConfigError: as :func:`load`.
    """
    problems = Problems()
    reader = _Reader(problems)
    reader.add_text(text, name)
    return _finish(cls, reader, overrides, problems).value


def _finish(cls: type[T], reader: _Reader, overrides: Sequence[str], problems: Problems) -> Loaded[T]:
    for item in overrides:
        layer = _override(item, problems)
        if layer is not None:
            reader.add(layer)
    reader.import_plugins()
    merger = Merger(cls, problems)
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
    return Loaded(value, tree, tuple(reader.files))


class _Reader:
    """Collects the layers, bases first, and the plugins they name."""

    def __init__(self, problems: Problems) -> None:
        self.layers: list[Map] = []
        self.files: list[Path] = []
        self.plugins: list[Scalar] = []
        self.name = "<config>"
        self._problems = problems

    def read(self, path: Path, asked_at: Origin | None, stack: tuple[Path, ...]) -> None:
        """Read a file, its bases before it."""
        text = _read_text(path, asked_at)
        real = path.resolve()
        if real in stack:
            chain = " -> ".join(_shown(p) for p in (*stack[stack.index(real) :], real))
            raise ConfigError(f"{asked_at}: base: the files include each other: {chain}; remove one 'base:'")
        name = _shown(path)
        if asked_at is None:
            self.name = name
        root = self._root(text, name)
        for base in _bases(root):
            self.read(_base_path(base, path.parent), base.where, (*stack, real))
        self.files.append(real)
        self.add(root)

    def add_text(self, text: str, name: str) -> None:
        """Take a text instead of a file."""
        self.name = name
        root = self._root(text, name)
        if "base" in root.entries:
            where = root.entries["base"].key_where
            raise ConfigError(f"{where}: base: not possible in a text that has no folder; save it as a file")
        self.add(root)

    def _root(self, text: str, name: str) -> Map:
        root = parse(text, name, self._problems)
        if root is None:
            return Map({}, Origin(name, 1, 1))
        if not isinstance(root, Map):
            raise ConfigError(f"{root.where}: expected keys and values (key: value), got {show(root)}")
        return root

    def add(self, layer: Map) -> None:
        """Append a layer; its ``plugins`` join those of the others, ``base`` is done with."""
        entry = layer.entries.get("plugins")
        if entry is not None:
            self._take_plugins(entry.node)
        rest = {k: e for k, e in layer.entries.items() if k not in ("base", "plugins")}
        self.layers.append(Map(rest, layer.where, layer.dotted))

    def _take_plugins(self, node: Node) -> None:
        if not isinstance(node, Seq):
            hint = f"; write [{node.text}]" if isinstance(node, Scalar) and node.text else ""
            what = f"expected a list of module names, got {show(node)}{hint}"
            self._problems.add(node.where, "plugins", what)
            return
        for item in node.items:
            if not (isinstance(item, Scalar) and isinstance(item.value, str) and item.value):
                self._problems.add(item.where, "plugins", f"expected a module name, got {show(item)}")
            elif item.value not in (p.value for p in self.plugins):
                self.plugins.append(item)

    def import_plugins(self) -> None:
        """Import every plugin; the folders of the config files and the working folder are importable.

        Raises:
            ConfigError: an import fails; nothing after it could be judged.
        """
        folders = [str(f.parent) for f in reversed(self.files)] + [str(Path.cwd())]
        if self.plugins:
            sys.path += [f for f in dict.fromkeys(folders) if f not in sys.path]  # last: never shadows
        for plugin in self.plugins:
            try:
                importlib.import_module(str(plugin.value))
            except (Exception, SystemExit) as e:
                what = _import_failure(plugin.text, e, folders)
                raise ConfigError(f"{plugin.where}: plugins: {what}") from e


def _import_failure(name: str, error: BaseException, folders: Iterable[str]) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and (name == missing or name.startswith(missing + ".")):
        searched = ", ".join(dict.fromkeys(map(_shown_folder, folders)))
        return f"no module named {missing!r}; looked in {searched} and among the installed packages"
    if name.startswith(".") or not all(part.isidentifier() for part in name.split(".")):
        return f"{name!r} is not a module name; write it as in 'import my_package.my_module'"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f"{_shown(Path(frames[-1].filename))}:{frames[-1].lineno}" if frames[1:] else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{_shown(Path(error.filename))}:{error.lineno}"
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"cannot import {name!r}: {type(error).__name__}: {reason}" + (f" (at {place})" if place else "")


def _bases(root: Map) -> list[Scalar]:
    if "base" not in root.entries:
        return []
    node = root.entries["base"].node
    items = node.items if isinstance(node, Seq) else (node,)
    bases: list[Scalar] = []
    for item in items:
        if not (isinstance(item, Scalar) and isinstance(item.value, str) and item.value):
            raise ConfigError(f"{item.where}: base: expected a file name or a list of them, got {show(item)}")
        bases.append(item)
    return bases


def _base_path(base: Scalar, folder: Path) -> Path:
    try:
        return Path(os.path.normpath(folder / expand(base.text)))
    except KeyError as e:
        raise ConfigError(f"{base.where}: base: environment variable {e.args[0]!r} is not set") from None
    except ValueError as e:
        raise ConfigError(f"{base.where}: base: {e}") from None


def _override(item: str, problems: Problems) -> Map | None:
    """``a.b.0.c=value`` as nested mappings."""
    where = Origin(f"--set {item}")
    key, equals, text = item.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"{where}: expected key=value, as in --set solver.lr=0.01")
    if not text.strip():
        raise ConfigError(f"{where}: no value after '='; write null for nothing, '\"\"' for an empty text")
    parts = key.split(".")
    if not all(parts):
        raise ConfigError(f"{where}: an empty part in the key {key!r}; write it as in a.b.c=value")
    if parts[0] == "base":
        raise ConfigError(f"{where}: base: only a file can name its base")
    value = parse(text, where.name, problems, whole=where)
    if value is None:
        raise ConfigError(f"{where}: no value after '=' (a '#' begins a comment; put it in quotes)")
    for part in reversed(parts):
        value = Map({part: Entry(where, value)}, where, dotted=True)
    assert isinstance(value, Map)
    return value


def _read_text(path: Path, asked_at: Origin | None) -> str:
    at = f"{asked_at}: base: " if asked_at else ""
    name = _shown(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{at}{name}: no such file{_similar(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{at}{name}: is a folder, not a config file{_similar(path / 'x')}") from None
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise ConfigError(f"{at}{name}: cannot be read: {reason}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        before = data[: e.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise ConfigError(f"{name}:{line}:{column}: not UTF-8 text (byte 0x{data[e.start]:02x})") from None


def _similar(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")]
    except OSError:
        return f"; there is no folder {_shown(path.parent)}"
    return "." + did_you_mean(path.name, names).replace("Known:", "In that folder:") if names else ""


def _shown(path: Path) -> str:
    """A path as messages show it: relative where it lies below the working folder."""
    absolute = Path(os.path.normpath(Path.cwd() / path))
    return str(absolute.relative_to(Path.cwd()) if Path.cwd() in absolute.parents else absolute)


def _shown_folder(path: str) -> str:
    return path if path != str(Path.cwd()) else "the working folder"
