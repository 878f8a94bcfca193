"""Charts for pages: lines and marks over two axes, drawn by the template ``parts.html.j2`` as SVG.

Figures that are files (.png, .svg, .pdf) are matplotlib's, see ``figure.py``; the palette is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from maskrcnn.viz.palette import QUIET, series_colour

#: Points (x, y), in the units of the axes.
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """From ``low`` to ``high``, with a tick every ``step``."""

    low: float
    high: float
    step: float

    @property
    def ticks(self) -> list[float]:
        """Values from ``low`` on."""
        return [self.low + k * self.step for k in range(int((self.high - self.low) / self.step + 1e-9) + 1)]

    def share(self, value: float) -> float:
        """Where a value lies, in [0, 1]; beyond the ends, at them."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Line:
    """Joined points; ``dashes`` as SVG has them ("4 3"), empty: none.  ``name`` shows under the pointer."""

    points: Curve
    colour: str
    width: float = 2.0
    opacity: float = 1.0
    dashes: str = ""
    name: str = ""


@dataclass(frozen=True)
class Mark:
    """A dot, a bar or a cross, ``shift`` pixels right of its place; ``name`` shows under the pointer."""

    x: float
    y: float
    colour: str
    kind: Literal["dot", "bar", "cross"] = "dot"
    shift: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class Bar:
    """From the lower axis up to ``y``, between two places of x; ``name`` shows under the pointer."""

    x1: float
    x2: float
    y: float
    colour: str
    name: str = ""


@dataclass(frozen=True)
class Chart:
    """Bars, lines and marks under a title; x without ticks where it only sets series apart.

    names: (x, text) below the axis, in place of its ticks.
    below, beside: what x and y are, written at the axes; may be empty.
    """

    title: str
    x: Scale
    y: Scale
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    ticks_below: bool = True
    bars: Sequence[Bar] = ()
    names: Sequence[tuple[float, str]] = ()
    below: str = ""
    beside: str = ""

    #: Pixels: the whole, and the margins around the axes.
    width: ClassVar[int] = 460
    height: ClassVar[int] = 264
    left: ClassVar[int] = 46
    right: ClassVar[int] = 12
    top: ClassVar[int] = 26
    bottom: ClassVar[int] = 34

    def across(self, x: float) -> float:
        """Pixels from the left edge."""
        return round(self.left + self.x.share(x) * (self.width - self.left - self.right), 1)

    def down(self, y: float) -> float:
        """Pixels from the upper edge."""
        return round(self.height - self.bottom - self.y.share(y) * (self.height - self.bottom - self.top), 1)


def axis_to(value: float, most: float = math.inf) -> Scale:
    """From 0 to ``value`` or a little more, at the utmost ``most``, in 3 to 6 steps of round numbers."""
    if not value > 0:
        return Scale(0.0, 1.0, 0.25)
    value = min(value, most)
    power = 10.0 ** math.floor(math.log10(value) - 1)
    step = next(m * power for m in (2, 2.5, 5, 10, 20) if m * power * 5 >= value * (1 - 1e-9))
    return Scale(0.0, step * math.ceil(value / step - 1e-9), step)


def line_chart(title: str, series: Mapping[str, Sequence[Curve]], most: float = math.inf) -> Chart:
    """Thin lines for the curves of a series and a thick one for their mean, over an axis from 0.

    Args:
        series: by name, in the order of their colours; each of at least one curve.
        most: largest value that there can be.  The upper 2 % of the points are cut off.
    """
    every = [curve for curves in series.values() for curve in curves]
    values = sorted(v for curve in every for _, v in curve)
    top = values[min(len(values) - 1, int(0.98 * len(values)))]
    last = max(x for curve in every for x, _ in curve)
    thin, thick, dots = [], [], []
    for i, (name, curves) in enumerate(series.items()):
        colour = series_colour(i)
        thin += [Line(curve, colour, 0.8, 0.45) for curve in curves if len(curves) > 1]
        together = list(zip(*curves, strict=False))
        mean = [(p[0][0], sum(v for _, v in p) / len(p)) for p in together]
        thick.append(Line(mean, colour))
        if len(mean) == 1:  # a line of one point is not seen
            dots.append(Mark(*mean[0], colour, name=name))
    across = Scale(0.0, last, axis_to(last).step)
    return Chart(title, across, axis_to(top * 1.05, most), [*thin, *thick], dots)


def bar_chart(title: str, values: Mapping[str, float], beside: str = "") -> Chart:
    """A bar a value, in the order given, under a name each, over an axis from 0."""
    n = max(len(values), 1)
    bars = [
        Bar((i + 0.15) / n, (i + 0.85) / n, v, series_colour(0), f"{name}: {v:.3g}")
        for i, (name, v) in enumerate(values.items())
    ]
    marks = [(i + 0.5) / n for i in range(n)]
    top = axis_to(max([*values.values(), 1e-3]) * 1.05)
    names = list(zip(marks, values, strict=False))
    return Chart(title, Scale(0.0, 1.0, 1.0), top, ticks_below=False, bars=bars, names=names, beside=beside)


def dot_chart(
    title: str, series: Mapping[str, tuple[Sequence[float], float | None]], most: float = math.inf
) -> Chart:
    """A dot a value, a bar at their mean, and a gray cross at a value to compare with, over an axis from 0.

    Args:
        series: values and what to compare with, by name, in the order of their colours.
        most: largest value that there can be.
    """
    every = [v for values, other in series.values() for v in (*values, other) if v is not None]
    marks = []
    for i, (name, (values, other)) in enumerate(series.items()):
        x, colour = (i + 0.5) / len(series), series_colour(i)
        if values:
            mean = sum(values) / len(values)
            marks.append(Mark(x, mean, colour, "bar", name=f"{name}, mean: {mean:.3f}"))
        for k, v in enumerate(values):
            marks.append(Mark(x, v, colour, "dot", 5 * (k - (len(values) - 1) / 2), f"{name}: {v:.3f}"))
        if other is not None:
            marks.append(Mark(x, other, QUIET, "cross", name=f"{name}, source: {other:.3f}"))
    top = axis_to(max([*every, 1e-3]) * 1.05, most)
    return Chart(title, Scale(0.0, 1.0, 1.0), top, marks=marks, ticks_below=False)
