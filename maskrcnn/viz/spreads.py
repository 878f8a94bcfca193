"""Distributions side by side, by matplotlib: a column a group, a cluster a tick, a colour a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn.viz.figure import new_figure, put_legend, style
from maskrcnn.viz.palette import FAINT, INK, QUIET, SERIES, series_colour

#: The 10, 25, 50, 75 and 90 % quantiles of a distribution.
Quantiles = tuple[float, ...]


@dataclass(frozen=True)
class Measure:
    """A row of panels.

    label: of the axis.  height: of the row, relative to the others.
    limits: of the axis; None: from 0 to the largest value, at least 1.
    """

    label: str
    height: float = 1.0
    limits: tuple[float, float] | None = None


def draw_spreads(
    title: str,
    measures: Sequence[Measure],
    columns: Sequence[tuple[str, Sequence[Sequence[Sequence[Quantiles]]]]],
    ticks: Sequence[str],
    series: Sequence[str],
    *,
    axis: str,
    note: str,
    colours: Sequence[str] = SERIES,
) -> Any:
    """A matplotlib figure; of each distribution 10 to 90 % (thin), 25 to 75 % (thick) and the median.

    Args:
        columns: title of each, and its distributions [measure][tick][series].
        ticks, axis: names along x, and what they are.  series: names in the legend, above ``note``.

    Raises:
        UserError: matplotlib is not installed.
    """
    n = len(series)
    width = max(0.85 + len(columns) * max(2.9, 0.62 * len(ticks)) + 0.15, 6.4)
    figure = new_figure(width, 7.4)
    left = 0.66 / width
    with style():
        figure.text(left, 0.967, title, size=11.5, weight="bold")
        box = {"left": left, "right": 1 - 0.12 / width, "top": 0.908, "bottom": 0.122}
        heights = [measure.height for measure in measures]
        axes = figure.subplots(
            len(measures),
            len(columns),
            sharex=True,
            sharey="row",
            squeeze=False,
            gridspec_kw={**box, "wspace": 0.06, "hspace": 0.12, "height_ratios": heights},
        )
        for panels, (title, spreads) in zip(axes.T, columns, strict=True):
            panels[0].set_title(title, size=9, color=INK)
            panels[-1].set_xlabel(axis)
            for panel, by_tick in zip(panels, spreads, strict=True):
                _dress(panel, ticks)
                for i, by_series in enumerate(by_tick):
                    for k, quantiles in enumerate(by_series):
                        x = i + (k - (n - 1) / 2) * 0.8 / n
                        _spread(panel, x, quantiles, series_colour(k, colours))
        for panel, measure in zip(axes[:, 0], measures, strict=True):
            panel.set_ylabel(measure.label)
        figure.align_ylabels()
        for panel, measure in zip(axes[:, 0], measures, strict=True):
            top = max(panel.get_ylim()[1], 1.0)
            panel.set_ylim(measure.limits or (-0.04 * top, top))
        _legend(figure, [series_colour(k, colours) for k in range(n)], series, left)
        figure.text(left, 0.008, note, size=7.5, color=QUIET, va="bottom")
    return figure


def _dress(panel: Any, ticks: Sequence[str]) -> None:
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_xlim(-0.55, len(ticks) - 0.45)
    panel.grid(axis="y", color=FAINT, lw=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _spread(panel: Any, x: float, quantiles: Quantiles, colour: str) -> None:
    """A distribution by its quantiles; a dot where it has no width."""
    p10, p25, p50, p75, p90 = quantiles
    if p90 - p10 < 1e-6:
        panel.plot(x, p50, "o", ms=4.4, mfc=colour, mec="white", mew=0.6, zorder=5)
        return
    panel.plot([x, x], [p10, p90], color=colour, lw=1.1, solid_capstyle="round", zorder=2)
    panel.plot([x, x], [p25, p75], color=colour, lw=4.6, solid_capstyle="butt", zorder=3)
    panel.plot(x, p50, "o", ms=2.8, mfc="white", mec=colour, mew=0.7, zorder=5)


def _legend(figure: Any, colours: Sequence[str], labels: Sequence[str], left: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, lw=4.6, label=label, solid_capstyle="butt")
        for colour, label in zip(colours, labels, strict=True)
    ]
    put_legend(figure, handles, (left, 0.034), 6, fontsize=8.5, handlelength=1.0, columnspacing=1.4)
