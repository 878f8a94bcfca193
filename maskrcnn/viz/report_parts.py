"""What the parts of a report are made of: sentences, tables, charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn.viz.charts import Chart
from maskrcnn.viz.tables import Table

#: A figure with its interval, ``{"value", "low", "high"}``.
Value = Mapping[str, Any]
#: What is not defined: there is no ground truth of that kind.
NONE = "n/a"


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix: its text, how dark it is in [0, 1], and what shows under the pointer."""

    text: str
    share: float
    name: str


@dataclass(frozen=True)
class Matrix:
    """Counts of pairs: ``names`` of the columns, and rows of (name, cells)."""

    title: str
    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class ReportPart:
    """A part of the page.

    anchor: its id, by which ``report_words.html.j2`` says what its figures mean and what to change.
    notes: sentences that the figures give.  legend: (name, CSS colour) of the charts.
    """

    anchor: str
    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    legend: Sequence[tuple[str, str]] = ()
    matrix: Matrix | None = None


def number(value: float | None, digits: int = 3) -> str:
    """As a table has it."""
    return NONE if value is None else f"{value:.{digits}f}"


def whole(value: float | None) -> str:
    """A count."""
    return NONE if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share."""
    return NONE if value is None else f"{value:.1%}"


def with_interval(value: Value | None) -> str:
    """``0.412 (0.390 to 0.433)``; without an interval the figure alone."""
    if value is None or value.get("value") is None:
        return NONE
    if value.get("low") is None or value.get("high") is None:
        return number(value["value"])
    return f"{number(value['value'])} ({number(value['low'])} to {number(value['high'])})"


def value_of(value: Value | None) -> float | None:
    """The figure without its interval."""
    return None if value is None else value.get("value")


def points(xs: Sequence[float], ys: Sequence[float | None]) -> list[tuple[float, float]]:
    """A curve of what is defined."""
    return [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
