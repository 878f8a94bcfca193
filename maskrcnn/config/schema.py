"""What a config dataclass expects: its annotations, taken apart once.

Allowed field types: ``int``, ``float``, ``bool``, ``str``, ``Path``, ``Literal``, ``X | None``,
``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]``, another config dataclass, and a slot
``Annotated[SomeProtocol, REGISTRY]``.  ``Annotated[float, Range(0, 1)]`` says which numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from maskrcnn.config.ranges import Range
from maskrcnn.config.registry import Registry
from maskrcnn.errors import ConfigError, plural


@dataclass(frozen=True)
class Leaf:
    """``int``, ``float``, ``bool``, ``str`` or ``Path``; which numbers, where that is said."""

    kind: type
    range: Range | None = None


@dataclass(frozen=True)
class Choice:
    """``Literal[...]``."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Maybe:
    """``X | None``."""

    inner: Spec


@dataclass(frozen=True)
class OneOf:
    """A union of single values or lists, tried in order."""

    options: tuple[Spec, ...]


@dataclass(frozen=True)
class ListOf:
    """``tuple[X, ...]``."""

    item: Spec


@dataclass(frozen=True)
class Fixed:
    """``tuple[X, Y]``."""

    items: tuple[Spec, ...]


@dataclass(frozen=True)
class DictOf:
    """``dict[str, X]``."""

    value: Spec


@dataclass(frozen=True)
class Struct:
    """Another config dataclass."""

    cls: type


@dataclass(frozen=True)
class Slot:
    """``Annotated[SomeProtocol, REGISTRY]``: any dataclass of the registry, chosen by ``type``."""

    registry: Registry[Any]


Spec: TypeAlias = "Leaf | Choice | Maybe | OneOf | ListOf | Fixed | DictOf | Struct | Slot"

#: Metadata of a field that is no key: YAML neither sets nor shows it.
NO_KEY = {"key": False}

_LEAVES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", Path: "a path"}
_ALLOWED = "int, float, bool, str, Path, Literal, X | None, tuple, dict[str, X], a dataclass, or a slot"


@dataclass(frozen=True)
class Field:
    """One key of a config dataclass."""

    name: str
    spec: Spec
    required: bool
    source: dataclasses.Field[Any]

    def default(self) -> Any:
        """The value where no file gives one (not for a required key)."""
        if self.source.default is not dataclasses.MISSING:
            return self.source.default
        assert self.source.default_factory is not dataclasses.MISSING
        return self.source.default_factory()


def fields_of(cls: type) -> dict[str, Field]:
    """The keys of a config dataclass, in the order declared.

    Raises:
        ConfigError: it is no dataclass, or an annotation cannot be read from YAML (a fault of the
            code, perhaps of a plugin, that has no better place to be told).
    """
    return _fields_of(cls)


@functools.cache
def _fields_of(cls: type) -> dict[str, Field]:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if not dataclasses.is_dataclass(cls):
        raise ConfigError(f"config class {name}: is not a dataclass")
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as e:
        raise ConfigError(
            f"config class {name}: annotations cannot be read: {e}; "
            "import what they name at the top of the module, outside 'if TYPE_CHECKING'"
        ) from None
    out: dict[str, Field] = {}
    for field in dataclasses.fields(cls):
        if not field.init or field.metadata.get("key") is False:
            continue
        try:
            spec = spec_of(hints[field.name])
        except TypeError as e:
            what = f"config class {name}: field {field.name!r}: {e}; allowed: {_ALLOWED}"
            raise ConfigError(what) from None
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        out[field.name] = Field(field.name, spec, required, field)
    return out


def spec_of(hint: Any) -> Spec:
    """Take one annotation apart.

    Raises:
        TypeError: a type that a config cannot hold.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for extra in args[1:]:
            if isinstance(extra, Registry):
                return Slot(extra)
            if isinstance(extra, Range) and args[0] in (int, float):
                return Leaf(args[0], extra)
            if isinstance(extra, Range):
                raise TypeError("a Range stands at the number itself, tuple[Annotated[int, Range(1)], ...]")
        return spec_of(args[0])
    if origin is Union or origin is types.UnionType:
        inner = [spec_of(a) for a in args if a is not type(None)]
        if len(inner) > 1 and any(isinstance(s, (Struct, Slot, DictOf)) for s in inner):
            raise TypeError(f"{hint} mixes mappings with other types; use a slot")
        spec: Spec = inner[0] if len(inner) == 1 else OneOf(tuple(inner))
        return Maybe(spec) if type(None) in args else spec
    if origin is Literal:
        return Choice(args)
    if origin is tuple and args and args[-1] is Ellipsis:
        return ListOf(spec_of(args[0]))
    if origin is tuple and args:
        return Fixed(tuple(spec_of(a) for a in args))
    if origin is dict and args[0] is str:
        return DictOf(spec_of(args[1]))
    if isinstance(hint, type) and hint in _LEAVES:
        return Leaf(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return Struct(hint)
    raise TypeError(f"type {hint} cannot be read from YAML")


class Config:
    """Base of config dataclasses: what the annotations do not allow is refused as it is made in Python, too.

    A subclass with a ``__post_init__`` of its own calls this one first.
    """

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigError: a number out of its range, or no choice; the message begins with the key.
        """
        for name, field in fields_of(type(self)).items():
            fault = fault_of(field.spec, getattr(self, name), name)
            if fault:
                raise ConfigError(fault)

    def arguments(self, *without: str) -> dict[str, Any]:
        """The values by key, for a constructor with arguments of the same names, but those ``without``."""
        return {name: getattr(self, name) for name in fields_of(type(self)) if name not in without}


def fault_of(spec: Spec, value: Any, name: str) -> str:
    """``name must be in [0, 1], got 7``: of numbers and choices; empty where they are right."""
    match spec:
        case Leaf(_, Range() as range) if isinstance(value, (int, float)):
            fault = range.fault(value)
            return f"{name} {fault}" if fault else ""
        case Choice(values) if value not in values:
            return f"{name} must be {describe(spec)}, got {value!r}"
        case Maybe(inner) if value is not None:
            return fault_of(inner, value, name)
        case OneOf(options):
            faults = [fault_of(option, value, name) for option in options]
            return faults[-1] if all(faults) else ""
        case ListOf(item) if isinstance(value, (tuple, list)):
            return next(filter(None, (fault_of(item, v, name) for v in value)), "")
        case Fixed(items) if isinstance(value, (tuple, list)):
            pairs = zip(items, value, strict=False)
            return next(filter(None, (fault_of(item, v, name) for item, v in pairs)), "")
        case DictOf(inner) if isinstance(value, dict):
            return next(filter(None, (fault_of(inner, v, k) for k, v in value.items())), "")
    return ""


def describe(spec: Spec) -> str:
    """What a value must be, for an error message."""
    match spec:
        case Leaf(kind, range):
            words = "" if range is None else range.words()
            return f"{_LEAVES[kind]} {words}".rstrip()
        case Choice(values):
            return "one of " + ", ".join(map(str, values))
        case Maybe(inner):
            return f"{describe(inner)} or null"
        case OneOf(options):
            return ", or ".join(describe(o) for o in options)
        case Fixed(items):
            return f"a list of {plural(len(items), 'item')}"
        case ListOf(_):
            return "a list"
        case Slot(registry):
            return f"the name of a {registry.slot} or a mapping with a 'type'"
        case _:
            return "a mapping"


def paths_named(cls: type, key: str, depth: int = 3) -> list[str]:
    """Key paths below ``cls`` that end in ``key``: for "it exists as ..." in an error message."""
    found: list[str] = []
    for name, field in fields_of(cls).items():
        spec = field.spec.inner if isinstance(field.spec, Maybe) else field.spec
        if isinstance(spec, Struct) and depth:
            if key in fields_of(spec.cls):
                found.append(f"{name}.{key}")
            found += [f"{name}.{rest}" for rest in paths_named(spec.cls, key, depth - 1)]
    return list(dict.fromkeys(found))
