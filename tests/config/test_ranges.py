"""A range says which numbers it takes, in a phrase that follows the key's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from maskrcnn.config import Config, Range, loads
from maskrcnn.config.ranges import any_number
from maskrcnn.config.schema import fields_of
from maskrcnn.errors import ConfigError


@pytest.mark.parametrize(
    ("range", "taken", "refused", "fault"),
    [
        (Range(0, 1), (0, 0.5, 1), -0.1, "must be in [0, 1], got -0.1"),
        (Range(0, below=1), (0, 0.99), 1, "must be in [0, 1), got 1"),
        (Range(above=0, most=1), (0.01, 1), 0, "must be in (0, 1], got 0"),
        (Range(above=0), (1, 1e-9), 0, "must be > 0, got 0"),
        (Range(3), (3, 2**63 - 1), 2, "must be >= 3, got 2"),
        (Range(most=4), (4, -9), 5, "must be <= 4, got 5"),
        (Range(below=4), (3.9,), 4, "must be < 4, got 4"),
        (Range(1, 2000, "no room"), (1, 2000), 2001, "must be at most 2,000, got 2001: no room"),
        (Range(1, 2000, "no room"), (), 0, "must be >= 1, got 0"),
        (
            any_number("of any size"),
            (-1e300, 0, 2**63 - 1),
            2**63,
            f"must be a number of 64 bits, got {2**63}",
        ),
        (any_number("of any size"), (), float("-inf"), "must be a finite number, got -inf"),
    ],
)
def test_what_is_taken_and_what_is_said(
    range: Range, taken: tuple[float, ...], refused: float, fault: str
) -> None:
    assert [range.fault(number) for number in taken] == [""] * len(taken)
    assert range.fault(refused) == fault


@dataclass(frozen=True, kw_only=True)
class Part(Config):
    share: Annotated[float, Range(0, 1)] | None = None
    sides: tuple[Annotated[int, Range(1)], ...] = ()
    pair: tuple[int, Annotated[int, Range(1)]] = (0, 1)
    by_name: dict[str, Annotated[float, Range(0, 1)]] | None = None
    ratio: Literal["auto"] | Annotated[int, Range(1)] = "auto"
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"share": 2.0}, "share must be in [0, 1], got 2.0"),
        ({"sides": (1, 0)}, "sides must be >= 1, got 0"),
        ({"pair": (-5, 0)}, "pair must be >= 1, got 0"),
        ({"by_name": {"x": 0.5, "y": -1.0}}, "y must be in [0, 1], got -1.0"),
        ({"ratio": 0}, "ratio must be >= 1, got 0"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
    ],
)
def test_a_config_made_in_python_is_held_to_them(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Part(**values)  # type: ignore[arg-type]
    assert str(error.value) == told


def test_what_is_right_is_made() -> None:
    part = Part(share=1.0, sides=(1, 2), pair=(-5, 1), by_name={"x": 0.0}, ratio=3, kind="b")
    assert part.arguments("by_name", "kind") == {"share": 1.0, "sides": (1, 2), "pair": (-5, 1), "ratio": 3}


def test_a_number_is_told_by_its_own_place_in_a_list() -> None:
    with pytest.raises(ConfigError, match=r"^f:2:4: sides.2 must be >= 1, got 0$"):
        loads(Part, "sides: [1, 5,\n   0]", "f")


def test_a_value_of_several_kinds_is_told_what_each_wants() -> None:
    with pytest.raises(ConfigError, match=r"f:1:8: ratio: expected one of auto, or an integer >= 1, got 0"):
        loads(Part, "ratio: 0", "f")


def test_a_range_stands_at_the_number_itself() -> None:
    @dataclass(frozen=True)
    class Wrong:
        sides: Annotated[tuple[int, ...], Range(1)] = ()

    with pytest.raises(ConfigError, match=r"field 'sides': a Range stands at the number itself"):
        fields_of(Wrong)
