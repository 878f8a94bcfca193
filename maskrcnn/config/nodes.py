"""What the config files say, as a small tree in which every value knows where it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from maskrcnn.errors import ConfigError, cut, few, plural

Plain: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: a place in a file, a ``--set`` argument, or a default."""

    name: str
    """File as shown to the user, ``--set key=value``, or ``default``."""
    line: int = 0
    """1-based line; 0 where there is none (``--set``, ``default``)."""
    column: int = 0
    """1-based column; 0 where there is none."""
    folder: Path | None = field(default=None, compare=False, repr=False)
    """What ``${HERE}`` means there: the folder of the file; None where there is no file."""

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.line else self.name

    @property
    def short(self) -> str:
        """``file:line``, without the column."""
        return f"{self.name}:{self.line}" if self.line else self.name


DEFAULT = Origin("default")
"""Origin of a value that no file and no ``--set`` gave."""


@dataclass(frozen=True)
class Scalar:
    """One value, and the text that it was written as."""

    value: Plain
    text: str
    where: Origin


@dataclass(frozen=True)
class Seq:
    """A list."""

    items: tuple[Node, ...]
    where: Origin


class Entry(NamedTuple):
    """A key's own place (for "unknown key"), and its value."""

    key_where: Origin
    node: Node


@dataclass(frozen=True)
class Map:
    """A mapping, keys in the order written."""

    entries: Mapping[str, Entry]
    where: Origin
    dotted: bool = False
    """Made from a ``--set a.b=c``: it reaches into what is there (list items by index, too)."""


@dataclass(frozen=True)
class Bad:
    """Stands for a value whose fault is already reported."""

    where: Origin


Node: TypeAlias = "Scalar | Seq | Map | Bad"


_SHOWN = 60
"""Characters of a value that an error message repeats."""
_LISTED = 20
"""Problems of one config that are written out; the others are counted."""


def is_null(node: Node) -> bool:
    """Whether the value is YAML's null."""
    return isinstance(node, Scalar) and node.value is None


def show(node: Node) -> str:
    """A value in an error message."""
    if isinstance(node, Map):
        return "a mapping"
    if isinstance(node, Seq):
        return "a list"
    if isinstance(node, Scalar):
        if node.value is None:
            return "null" if node.text else "nothing (null)"
        text = repr(node.value) if isinstance(node.value, str) else node.text
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return "?"


def join(path: str, key: str | int) -> str:
    """Key path of ``key`` inside ``path``, in the form that ``--set`` takes."""
    return f"{path}.{key}" if path else str(key)


class Problems:
    """Everything found wrong, so that it is reported, and mended, in one go."""

    def __init__(self) -> None:
        self._found: dict[tuple[Origin, str], None] = {}

    def add(self, where: Origin, path: str, what: str) -> None:
        """Record one fault: ``where: path: what``."""
        self._found[(where, f"{path}: {what}" if path else what)] = None

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        """Raise one :class:`ConfigError` that lists the first faults, a line each, in file order.

        Raises:
            ConfigError: something was recorded.
        """
        if not self._found:
            return
        order = {name: i for i, name in enumerate(dict.fromkeys(w.name for w, _ in self._found))}
        found = sorted(self._found, key=lambda f: (order[f[0].name], f[0].line, f[0].column))
        lines = [cut(f"{where}: {what}") for where, what in found]
        if len(lines) == 1:
            raise ConfigError(lines[0])
        listed = few(lines, _LISTED, "\n  ")
        raise ConfigError(f"{plural(len(lines), 'problem')} in the configuration\n  {listed}")
