"""Every number of a config has a range, or says why it has none; what is outside is refused by its place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.config import Config, Range, Registry, load
from maskrcnn.config.schema import (
    DictOf,
    Fixed,
    Leaf,
    ListOf,
    Maybe,
    OneOf,
    Slot,
    Spec,
    Struct,
    fields_of,
)
from maskrcnn.data import DATASETS, TRANSFORMS
from maskrcnn.engine.optim import OPTIMIZERS
from maskrcnn.engine.schedules import SCHEDULES
from maskrcnn.errors import ConfigError
from maskrcnn.modeling import interfaces
from maskrcnn.recipe import Recipe
from maskrcnn.studies.ablation.suite import Suite

REGISTRIES: list[Registry[Any]] = [
    *(r for r in vars(interfaces).values() if isinstance(r, Registry)),
    *(DATASETS, TRANSFORMS, OPTIMIZERS, SCHEDULES),
]


def inner(spec: Spec) -> tuple[Spec, ...]:
    match spec:
        case Maybe(part) | ListOf(part) | DictOf(part):
            return (part,)
        case OneOf(parts) | Fixed(parts):
            return parts
    return ()


def classes_in(spec: Spec) -> Iterator[type]:
    if isinstance(spec, Struct):
        yield spec.cls
    elif isinstance(spec, Slot):
        yield from ours(spec.registry)
    for part in inner(spec):
        yield from classes_in(part)


def ours(registry: Registry[Any]) -> list[type]:
    """The registered classes of the package itself; other tests register some, too."""
    found = [registry.get(name) for name in registry.names()]
    return [cls for cls in found if cls.__module__.startswith("maskrcnn.")]


@cache
def classes() -> tuple[type, ...]:
    """All that a recipe or a suite can hold."""
    todo: list[type] = [Recipe, Suite, *(cls for registry in REGISTRIES for cls in ours(registry))]
    found: dict[type, None] = {}
    while todo:
        cls = todo.pop()
        if cls not in found:
            found[cls] = None
            todo += [c for field in fields_of(cls).values() for c in classes_in(field.spec)]
    return tuple(sorted(found, key=lambda c: c.__name__))


def numbers(spec: Spec, text: str = "{}") -> Iterator[tuple[Leaf, str]]:
    """The numbers that a value may hold, each with the YAML around it."""
    match spec:
        case Leaf(kind) if kind in (int, float):
            yield spec, text
        case Fixed(parts):
            for i, part in enumerate(parts):
                items = ["1"] * len(parts)
                items[i] = "{}"
                yield from numbers(part, text.replace("{}", f"[{', '.join(items)}]"))
        case ListOf(part):
            yield from numbers(part, text.replace("{}", "[{}]"))
        case DictOf(part):
            yield from numbers(part, text.replace("{}", "{{k: {}}}"))
        case _:
            for part in inner(spec):
                yield from numbers(part, text)


#: (class, field, number, the YAML around it)
NUMBERS = [
    pytest.param(cls, name, leaf, text, id=f"{cls.__name__}.{name}-{i}")
    for cls in classes()
    for name, field in fields_of(cls).items()
    for i, (leaf, text) in enumerate(numbers(field.spec))
]


def test_they_are_found() -> None:
    names = {cls.__name__ for cls in classes()}
    assert {"Recipe", "SGDConfig", "AnchorConfig", "CascadeConfig", "RoIAlign", "CocoConfig"} <= names
    assert len(NUMBERS) > 120


@pytest.mark.parametrize("cls", classes())
def test_a_config_dataclass_holds_its_ranges_in_python(cls: type) -> None:
    assert issubclass(cls, Config) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize(("cls", "name", "leaf", "text"), NUMBERS)
def test_a_number_has_a_range_or_a_reason(cls: type, name: str, leaf: Leaf, text: str) -> None:
    assert isinstance(leaf.range, Range), f"{cls.__name__}.{name}: which numbers? Annotated[..., Range(...)]"
    ends = (leaf.range.least, leaf.range.most, leaf.range.above, leaf.range.below)
    assert any(map(math.isfinite, ends)) or len(leaf.range.why.split()) > 2


def takes_other_kinds(spec: Spec) -> bool:
    """A whole number may then be read as another one, or as a word (options of timm and the like)."""
    return isinstance(spec, OneOf) or any(map(takes_other_kinds, inner(spec)))


def outside(leaf: Leaf) -> list[str]:
    """Numbers just outside of each end, and far outside."""
    assert leaf.range is not None
    step = 1 if leaf.kind is int else 0.001
    found = [end - step for end in (leaf.range.least,) if math.isfinite(end)]
    found += [end + step for end in (leaf.range.most,) if math.isfinite(end)]
    found += [end for end in (leaf.range.above, leaf.range.below) if math.isfinite(end)]
    extreme = (
        ["9223372036854775808", "-9223372036854775809"] if leaf.kind is int else [".nan", ".inf", "-.inf"]
    )
    return [str(leaf.kind(number)) for number in found] + extreme


@pytest.mark.parametrize(("cls", "name", "leaf", "text"), NUMBERS)
def test_a_number_outside_is_refused_by_its_place(
    cls: type, name: str, leaf: Leaf, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if takes_other_kinds(fields_of(cls)[name].spec):
        pytest.skip("another kind of value may be what was meant")
    monkeypatch.chdir(tmp_path)
    for number in outside(leaf):
        line = f"{name}: {text.format(number)}"
        Path("c.yaml").write_text(f"# one line\n{line}\n")
        with pytest.raises(ConfigError) as told:
            load(cls, "c.yaml")
        place = f"c.yaml:2:{line.rindex(number) + 1}: {name}"
        lines = str(told.value).split("\n")
        assert any(place in item and " must be " in item for item in lines), str(told.value)


def made_with(cls: type, name: str, value: Any) -> None:
    """The dataclass made in Python: all else as by default, or from what a file would say."""
    needed = {n: required(f.spec) for n, f in fields_of(cls).items() if f.required}
    cls(**(needed | {name: value}))


def required(spec: Spec) -> Any:
    match spec:
        case Leaf(kind):
            return kind(1) if kind in (int, float) else kind("x")
        case ListOf(part):
            return (required(part),)
        case Struct(cls):
            return cls(**{n: required(f.spec) for n, f in fields_of(cls).items() if f.required})
        case Slot(registry):
            return ours(registry)[0]
    raise AssertionError(spec)


def value_of(spec: Spec, number: Any) -> Any:
    """A value that holds the number, wherever it can."""
    match spec:
        case Maybe(part):
            return value_of(part, number)
        case ListOf(part):
            return (value_of(part, number),)
        case Fixed(parts):
            return tuple(value_of(part, number) for part in parts)
        case DictOf(part):
            return {"k": value_of(part, number)}
    return number


@pytest.mark.parametrize(("cls", "name", "leaf", "text"), NUMBERS)
def test_a_number_outside_is_refused_in_python(cls: type, name: str, leaf: Leaf, text: str) -> None:
    spec = fields_of(cls)[name].spec
    if takes_other_kinds(spec):
        pytest.skip("another kind of value may be what was meant")
    for number in outside(leaf):
        value = value_of(spec, leaf.kind(number.replace(".nan", "nan").replace(".inf", "inf")))
        with pytest.raises(ConfigError, match=rf"^({name}|k) must be "):
            made_with(cls, name, value)
