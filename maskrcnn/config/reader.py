"""Config files and ``--set`` arguments to layers of nodes, bases first."""

from __future__ import annotations

import os
from pathlib import Path

from maskrcnn.config.construct import expand
from maskrcnn.config.nodes import Entry, Map, Node, Origin, Problems, Scalar, Seq, show
from maskrcnn.config.registry import did_you_mean
from maskrcnn.config.shipped import ZOO, is_shipped_name, shipped_file, shipped_name, similar_shipped
from maskrcnn.config.text import parse
from maskrcnn.errors import ConfigError, few


class Reader:
    """Collects the layers, bases first, and the plugins they name."""

    def __init__(self, problems: Problems) -> None:
        self.layers: list[Map] = []
        self.files: list[Path] = []
        self.places: dict[str, Path] = {}
        """The file behind each name that an ``Origin`` bears."""
        self.plugins: list[Scalar] = []
        self.name = "<config>"
        self._problems = problems

    def read(self, path: Path, asked_at: Origin | None, stack: tuple[Path, ...]) -> None:
        """Read a file, its bases before it; see :func:`find_config`."""
        path = _found(path, Path(), asked_at)
        text = _read_text(path, asked_at)
        real = path.resolve()
        if real in stack:
            chain = few((shown(p) for p in (*stack[stack.index(real) :], real)), 10, " -> ")
            raise ConfigError(f"{asked_at}: base: the files include each other: {chain}; remove one 'base:'")
        name = _shown_config(path)
        self.places[name] = path
        if asked_at is None:
            self.name = name
        root = self._root(text, name, path.parent.resolve())
        for base in _bases(root):
            self.read(_found(_expanded(base), path.parent, base.where), base.where, (*stack, real))
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

    def _root(self, text: str, name: str, folder: Path | None = None) -> Map:
        root = parse(text, name, self._problems, folder=folder)
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


def find_config(path: Path, folder: Path = Path()) -> Path:
    """``path`` below ``folder``; where there is none, the file that comes with the package by that name.

    ``configs/base/mask_rcnn_fpn.yaml`` so means the same in a checkout and beside an installed package.  A
    file of one's own comes first, also where both names leave out ``.yaml``.

    Raises:
        ConfigError: several files of the package are called so.
    """
    near, name = folder / path, path.as_posix()
    if not is_shipped_name(name):
        return near
    own = (near, near.with_name(f"{near.name}.yaml"))
    return next((p for p in own if p.is_file()), None) or shipped_file(name) or near


def _found(path: Path, folder: Path, asked_at: Origin | None) -> Path:
    try:
        return find_config(path, folder)
    except ConfigError as error:
        raise ConfigError(f"{asked_at}: base: {error}" if asked_at else str(error)) from None


def _expanded(base: Scalar) -> Path:
    try:
        return expand(base.text, base.where.folder)
    except ValueError as e:
        raise ConfigError(f"{base.where}: base: {e}") from None


def override(item: str, problems: Problems) -> Map:
    """``a.b.0.c=value``, as ``--set`` takes it, as nested mappings: a layer."""
    where = Origin(f"--set {item}")
    key, equals, text = item.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"{where}: expected key=value, as in --set solver.steps=500")
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
    name = shown(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        tail = _tail(name)
        ours = similar_shipped(tail)
        hint = f". Did you mean {ours!r}, which comes with maskrcnn?" if ours else _similar(path)
        if tail.startswith(f"{ZOO}/") and not ours:
            hint = ", and no recipe that comes with maskrcnn is called so; maskrcnn zoo lists their names"
        raise ConfigError(f"{at}{name}: no such file{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{at}{name}: is a folder, not a config file{_similar(path / 'x')}") from None
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise ConfigError(
            f"{at}{name}: cannot be read: {reason}; name another file or folder, or mend that"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        before = data[: e.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise ConfigError(f"{name}:{line}:{column}: not UTF-8 text (byte 0x{data[e.start]:02x})") from None


def _tail(name: str) -> str:
    """What a name says from ``configs/`` or ``zoo/`` on, whatever folder it was looked for in."""
    start = max(f"/{name}".rfind("/configs/"), f"/{name}".rfind(f"/{ZOO}/"))
    return name[start:] if start >= 0 else name


def _shown_config(path: Path) -> str:
    """As :func:`shown`; a file of the package outside the working folder is called by its shipped name."""
    near, name = shown(path), shipped_name(path)
    return near if name is None or not Path(near).is_absolute() else f"shipped {name}"


def _similar(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")]
    except OSError:
        return f"; there is no folder {shown(path.parent)}"
    near, _, known = did_you_mean(path.name, names).partition(" Known: ")
    listed = f" In that folder: {known}" if 0 < len(names) <= 12 else ""
    return f".{near}{listed}" if near or listed else ""


def shown(path: Path) -> str:
    """A path as messages show it: relative where it lies below the working folder."""
    absolute = Path(os.path.normpath(Path.cwd() / path))
    return str(absolute.relative_to(Path.cwd()) if Path.cwd() in absolute.parents else absolute)
