"""Name -> part, one registry a swappable slot.  No scanning, no scopes, no parents."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from maskrcnn.errors import few

T = TypeVar("T")
E = TypeVar("E")
C = TypeVar("C")

#: Names that a message lists; all of any slot or mapping of ours.
_LISTED = 40
#: Characters of a word that are compared: difflib takes time with the square of their number.
_COMPARED = 100


class Named(Generic[E]):
    """Parts of one kind by name; the built-in ones lie in modules that are imported when one is asked for.

    Args:
        slot: what a part is called in messages.
        room: the package of the built-in parts.
        modules: the module below it that registers each built-in name.
    """

    def __init__(self, slot: str, room: str = "", **modules: str) -> None:
        self.slot = slot
        self._entries: dict[str, E] = {}
        self._modules = {name: f"{room}.{module}" for name, module in modules.items()}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator: make ``name`` choose what is decorated.

        Raises:
            ValueError: the name is already taken.
        """

        def add(part: C) -> C:
            if name in self._entries or self._modules.get(name, part.__module__) != part.__module__:
                taken: Any = self.get(name)
                raise ValueError(f"{self.slot} {name!r} is already {taken.__module__}.{taken.__qualname__}")
            self._entries[name] = cast(E, part)
            return part

        return add

    def get(self, name: str) -> E:
        """The part registered as ``name``; a built-in one's module is imported for it.

        Raises:
            KeyError: nothing has that name; the message suggests and lists what is known.
        """
        if name not in self._entries and name in self._modules:
            import_module(self._modules[name])
        if name not in self._entries:
            raise KeyError(
                f"unknown {self.slot} {name!r}.{did_you_mean(name, self.names())}."
                f" If it is your own, list its module under 'plugins:'"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted({*self._entries, *self._modules})


class Registry(Named[type[T]]):
    """The parts that may fill one slot of a config, by the name written after ``type:``.

    A field annotated ``Annotated[SomeProtocol, REGISTRY]`` is such a slot; the loader reads
    ``{type: name, ...}`` or just ``name`` there and builds the registered dataclass.
    """

    def name_of(self, cls: type[Any]) -> str:
        """The name under which ``cls`` is registered.

        Raises:
            KeyError: ``cls`` is not registered here.
        """
        for name, entry in self._entries.items():
            if entry is cls:
                return name
        raise KeyError(f"{cls.__qualname__} is not a registered {self.slot}")

    def make(self, name: str, **options: Any) -> T:
        """The dataclass registered as ``name``, with these options."""
        return self.get(name)(**options)

    def default(self, name: str) -> Callable[[], T]:
        """:meth:`make` for a ``default_factory``, which imports the part only where it is the default."""
        return lambda: self.make(name)


def on_demand(package: str, **modules: str) -> Callable[[str], Any]:
    """A package's ``__getattr__``: names from modules below it, each imported when a name is asked for."""

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get


def did_you_mean(word: str, options: Iterable[Any]) -> str:
    """`` Did you mean 'x'? Known: a, b, x`` for an error message (leading space included)."""
    known = sorted(map(str, options))
    near = difflib.get_close_matches(word[:_COMPARED], known, n=1, cutoff=0.6)
    return (f" Did you mean {near[0]!r}?" if near else "") + f" Known: {few(known, _LISTED) or '(none)'}"
