"""Name -> config dataclass, one registry a swappable slot.  No scanning, no scopes, no parents."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from maskrcnn.errors import few

T = TypeVar("T")
C = TypeVar("C", bound=type)

#: Names that a message lists; all of any slot or mapping of ours.
_LISTED = 40
#: Characters of a word that are compared: difflib takes time with the square of their number.
_COMPARED = 100


class Registry(Generic[T]):
    """The parts that may fill one slot of a config, by the name written after ``type:``.

    A field annotated ``Annotated[SomeProtocol, REGISTRY]`` is such a slot; the loader reads
    ``{type: name, ...}`` or just ``name`` there and builds the registered dataclass.
    """

    def __init__(self, slot: str) -> None:
        self.slot = slot
        self._entries: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: make ``name`` choose the decorated config dataclass.

        Raises:
            ValueError: the name is already taken.
        """

        def add(cls: C) -> C:
            if name in self._entries:
                taken = self._entries[name]
                raise ValueError(f"{self.slot} {name!r} is already {taken.__module__}.{taken.__qualname__}")
            self._entries[name] = cls
            return cls

        return add

    def get(self, name: str) -> type[T]:
        """The dataclass registered as ``name``.

        Raises:
            KeyError: nothing has that name; the message suggests and lists what is known.
        """
        if name not in self._entries:
            raise KeyError(
                f"unknown {self.slot} {name!r}.{did_you_mean(name, self._entries)}."
                f" If it is your own, list its module under 'plugins:'"
            )
        return self._entries[name]

    def name_of(self, cls: type[Any]) -> str:
        """The name under which ``cls`` is registered.

        Raises:
            KeyError: ``cls`` is not registered here.
        """
        for name, entry in self._entries.items():
            if entry is cls:
                return name
        raise KeyError(f"{cls.__qualname__} is not a registered {self.slot}")

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted(self._entries)


def did_you_mean(word: str, options: Iterable[Any]) -> str:
    """`` Did you mean 'x'? Known: a, b, x`` for an error message (leading space included)."""
    known = sorted(map(str, options))
    near = difflib.get_close_matches(word[:_COMPARED], known, n=1, cutoff=0.6)
    return (f" Did you mean {near[0]!r}?" if near else "") + f" Known: {few(known, _LISTED) or '(none)'}"
