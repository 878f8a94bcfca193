"""The plot of a data set's misalignment: distributions by operator, stride and object size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskrcnn.studies.explain.scaled_boxes import Boxes
from maskrcnn.studies.explain.statistics import SIZES, OperatorRow
from maskrcnn.studies.explain.table import stride_name
from maskrcnn.viz.figure import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    QUIET,
    SKY,
    VERMILLION,
    new_figure,
    style,
)

_COLOURS = (VERMILLION, ORANGE, BLUE, PURPLE, GREEN, SKY, QUIET, INK)
_SIZE_LABELS = {
    "small": "small objects (< 32² px)",
    "medium": "medium (32² to 96² px)",
    "large": "large (≥ 96² px)",
}


def draw_chart(rows: Sequence[OperatorRow], boxes: Boxes) -> Any:
    """A matplotlib figure, a column an object size: offsets, their noise, and the IoU.

    Of the first and the last the distribution: 10 to 90 % (thin), 25 to 75 % (thick) and the median.

    Raises:
        UserError: matplotlib is not installed.
    """
    sizes = [name for name in SIZES if any(row.size == name for row in rows)]
    strides = list(dict.fromkeys(row.stride for row in rows))
    ops = list(dict.fromkeys(row.op for row in rows))
    table = {(row.stride, row.op, row.size): row for row in rows}
    width = max(0.85 + len(sizes) * max(2.9, 0.62 * len(strides)) + 0.15, 6.4)
    figure = new_figure(width, 7.4)
    left = 0.66 / width
    with style():
        title = (
            f"Misalignment on {boxes.name}: {len(boxes):,} boxes of {boxes.images:,} images (network scale)"
        )
        figure.text(left, 0.967, title, size=11.5, weight="bold")
        box = {"left": left, "right": 1 - 0.12 / width, "top": 0.908, "bottom": 0.122}
        axes = figure.subplots(
            3,
            len(sizes),
            sharex=True,
            sharey="row",
            squeeze=False,
            gridspec_kw={**box, "wspace": 0.06, "hspace": 0.12, "height_ratios": (1, 0.62, 1)},
        )
        for column, size in enumerate(sizes):
            panels = axes[:, column]
            count = next(row.boxes for row in rows if row.size == size)
            panels[0].set_title(f"{_SIZE_LABELS[size]}, n = {count:,}", size=9, color=INK)
            for panel in panels:
                _dress(panel, [stride_name(s) for s in strides])
            for i, stride in enumerate(strides):
                for k, op in enumerate(ops):
                    row = table[stride, op, size]
                    x, colour = i + (k - (len(ops) - 1) / 2) * 0.8 / len(ops), _COLOURS[k % len(_COLOURS)]
                    _spread(panels[0], x, row.quantiles[0], colour)
                    _spread(panels[1], x, (row.noise,) * 5, colour)
                    _spread(panels[2], x, row.quantiles[1], colour)
            panels[2].set_xlabel("stride (px)")
        labels = ("bins off by (px)", "of it, differing from\nbox to box (rms, px)", "IoU with the box")
        for panel, label in zip(axes[:, 0], labels, strict=True):
            panel.set_ylabel(label)
        figure.align_ylabels()
        for panel in axes[:2, 0]:
            top = max(panel.get_ylim()[1], 1.0)
            panel.set_ylim(-0.04 * top, top)
        axes[2, 0].set_ylim(-0.03, 1.04)
        _legend(figure, [op.label for op in ops], left)
    return figure


def _dress(panel: Any, ticks: list[str]) -> None:
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_xlim(-0.55, len(ticks) - 0.45)
    panel.grid(axis="y", color=FAINT, lw=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _spread(panel: Any, x: float, quantiles: tuple[float, ...], colour: str) -> None:
    """A distribution by its quantiles; a dot where it has no width."""
    p10, p25, p50, p75, p90 = quantiles
    if p90 - p10 < 1e-6:
        panel.plot(x, p50, "o", ms=4.4, mfc=colour, mec="white", mew=0.6, zorder=5)
        return
    panel.plot([x, x], [p10, p90], color=colour, lw=1.1, solid_capstyle="round", zorder=2)
    panel.plot([x, x], [p25, p75], color=colour, lw=4.6, solid_capstyle="butt", zorder=3)
    panel.plot(x, p50, "o", ms=2.8, mfc="white", mec=colour, mew=0.7, zorder=5)


def _legend(figure: Any, labels: Sequence[str], left: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_COLOURS[k % len(_COLOURS)], lw=4.6, label=label, solid_capstyle="butt")
        for k, label in enumerate(labels)
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(left, 0.034),
        ncols=6,
        fontsize=8.5,
        handlelength=1.0,
        columnspacing=1.4,
        borderaxespad=0,
        borderpad=0,
    )
    note = (
        "thin: 10 to 90 % of the boxes; thick: 25 to 75 %; ○ median; ● all alike.  "
        "FPN: each box at its level's stride."
    )
    figure.text(left, 0.008, note, size=7.5, color=QUIET, va="bottom")
