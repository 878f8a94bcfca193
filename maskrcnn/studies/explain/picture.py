"""The picture: a box, what each operator reads for it, and how far that is off; side by side.

One column an operator, the image above, the feature grid below.  Black is what was asked for, blue what is
read, vermillion the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.layers.geometry import CellAxis
from maskrcnn.studies.explain.facts import facts
from maskrcnn.studies.explain.placement import Floats, to_pixels
from maskrcnn.studies.explain.region import BoxOnMap, Region
from maskrcnn.viz.figure import BLUE, FAINT, INK, QUIET, VERMILLION, new_figure, style

#: More sampling points than this are a blue mist, and are not drawn.
MOST_POINTS = 4000
#: A cell that one bin reads, that two read, that more read.
_TINTS = ("#d9eaf6", "#b5d4ea", "#8fbcdc")
_COLUMN, _PANEL = 3.5, 3.05  # inches


def draw(image: npt.NDArray[np.uint8], regions: Sequence[Region], *, title: str | None = None) -> Any:
    """A matplotlib figure with one column a region; all regions share one :class:`BoxOnMap`.

    image: uint8 [H, W, 3] RGB, the size that the regions' ``where`` says.

    Raises:
        UserError: matplotlib is not installed.
    """
    where = regions[0].where
    lines = [facts(region) for region in regions]
    most = max(map(len, lines))
    n = len(regions)
    top, foot = 0.72, 0.2 + 0.185 * most + 0.42
    width, height = _COLUMN * n + 0.25, top + 2 * _PANEL + 0.5 + foot
    figure = new_figure(width, height)
    window = _window(regions)
    with style():
        figure.text(
            0.3 / width, 1 - 0.22 / height, title or _title(where), size=12.5, weight="bold", va="center"
        )
        for k, (region, text) in enumerate(zip(regions, lines, strict=True)):
            left = (0.3 + _COLUMN * k + 0.22) / width
            size = (_PANEL / width, _PANEL / height)
            upper = figure.add_axes((left, 1 - (top + _PANEL) / height, *size))
            lower = figure.add_axes((left, 1 - (top + 2 * _PANEL + 0.5) / height, *size))
            upper.set_title(region.op.label, weight="bold", size=10.5, pad=5, x=0.0)
            _image_panel(upper, image, region, window)
            _grid_panel(lower, region, window)
            y = 1 - (top + 2 * _PANEL + 0.5 + 0.2) / height
            for i, line in enumerate(text):
                last = i == len(text) - 1
                figure.text(
                    left,
                    y - 0.185 * i / height,
                    line,
                    size=8.6,
                    va="center",
                    weight="bold" if last else "normal",
                    color=(VERMILLION if region.mean_offset() > 0.05 else BLUE) if last else INK,
                )
        _legend(figure, 0.52 / width, 0.17 / height)
    return figure


def _title(where: BoxOnMap) -> str:
    x1, y1, x2, y2 = where.box
    h, w = where.image_size
    P, Q = where.output_size
    corner = ", cells at their corners" if where.cells == "corner" else ""
    return f"A box of {x2 - x1:g}×{y2 - y1:g} px in {w}×{h}, stride {where.stride}, {P}×{Q} bins{corner}"


def _pixels(region: Region, values: Floats) -> Floats:
    return to_pixels(values, region.where.stride, region.where.cells)


def _window(regions: Sequence[Region]) -> tuple[float, float, float, float]:
    """What all panels show, px: a square around the box and all that is read, and a margin."""
    where = regions[0].where
    boxes = np.array([where.box, *(r.effective_box for r in regions)])
    (x1, y1), (x2, y2) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    side = max(x2 - x1, y2 - y1)
    side += 2 * max(0.06 * side, 0.75 * where.stride)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def _frame(axes: Any, window: tuple[float, float, float, float]) -> None:
    x1, y1, x2, y2 = window
    axes.set_xlim(x1, x2)
    axes.set_ylim(y2, y1)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _image_panel(
    axes: Any, image: npt.NDArray[np.uint8], region: Region, window: tuple[float, float, float, float]
) -> None:
    from matplotlib.patches import Rectangle

    h, w = region.where.image_size
    # Towards white, so that lines read on any image.
    pale = (image.astype(np.float32) * 0.62 + 255 * 0.38).astype(np.uint8)
    axes.imshow(pale, extent=(0, w, h, 0), interpolation="bilinear", zorder=0)
    axes.add_patch(Rectangle((0, 0), w, h, fill=False, ec=FAINT, lw=0.8, zorder=1))
    _frame(axes, window)
    _unread(axes, region)
    _bins(axes, region, width=1.0)
    _points(axes, region, window, 0.75)
    _box(axes, region)
    _arrows(axes, region)


def _tint(region: Region) -> Floats:
    """[H, W]: 0 for a cell that is not read, else which of the tints; overlap shows for whole cells alone."""
    # Bins that overlap in one direction give a cell 2 readers, in both 4.
    return np.minimum(region.times_read(), len(_TINTS) if isinstance(region.reads.x, CellAxis) else 1)


def _grid_panel(axes: Any, region: Region, window: tuple[float, float, float, float]) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap

    H, W = region.where.map_size
    stride = region.where.stride
    ys, xs = (_pixels(region, np.arange(n + 1, dtype=np.float64)) for n in (H, W))
    axes.imshow(
        _tint(region),
        extent=(xs[0], xs[-1], ys[-1], ys[0]),
        cmap=ListedColormap(["#ffffff", *_TINTS]),
        vmin=0,
        vmax=len(_TINTS),
        interpolation="nearest",
        zorder=0,
    )
    shown = (window[2] - window[0]) / stride
    lines = [((x, ys[0]), (x, ys[-1])) for x in xs] + [((xs[0], y), (xs[-1], y)) for y in ys]
    axes.add_collection(LineCollection(lines, colors=FAINT, linewidths=min(0.7, 18 / shown), zorder=1))
    _frame(axes, window)
    _unread(axes, region)
    _bins(axes, region, width=1.3)
    _points(axes, region, window, 1.0)
    _box(axes, region)
    _margins(axes, region, window)


def _points(axes: Any, region: Region, window: tuple[float, float, float, float], size: float) -> None:
    """Where the operator samples; ``size`` scales the dots."""
    if not 0 < region.point_count <= MOST_POINTS:
        return
    points = region.points().reshape(-1, 2)
    at = _pixels(region, points)
    # Points side by side across the box; a dot takes a fifth of the gap between two.
    span = max(at[:, 1].max() - at[:, 1].min(), region.where.stride)
    gap = _PANEL * 72 * span / (window[2] - window[0]) / len(points) ** 0.5
    diameter = np.clip(gap * 0.22, 1.6, 4.0) * size
    axes.scatter(at[:, 1], at[:, 0], s=diameter**2, c=BLUE, lw=0, zorder=6)


def _box(axes: Any, region: Region) -> None:
    """The box, and thin dashes where its bins should be cut."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = region.where.box
    xs = _pixels(region, region.ideal_x[0][1:])
    ys = _pixels(region, region.ideal_y[0][1:])
    lines = [((x, y1), (x, y2)) for x in xs] + [((x1, y), (x2, y)) for y in ys]
    axes.add_collection(
        LineCollection(lines, colors=INK, linewidths=0.6, linestyles=(0, (3, 2.4)), alpha=0.75, zorder=4)
    )
    axes.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="white", lw=3.0, alpha=0.7, zorder=4.5)
    )
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=INK, lw=1.6, zorder=5))


def _bins(axes: Any, region: Region, width: float) -> None:
    """Outlines of the bins as read; bare points have none."""
    from matplotlib.collections import LineCollection

    xs = [_pixels(region, v[0]) for v in (region.x.low, region.x.high)]
    ys = [_pixels(region, v[0]) for v in (region.y.low, region.y.high)]
    if (xs[0] == xs[1]).all() or (ys[0] == ys[1]).all():
        return
    _region(axes, region)
    across = sorted({*xs[0].tolist(), *xs[1].tolist()})
    down = sorted({*ys[0].tolist(), *ys[1].tolist()})
    lines = [((x, down[0]), (x, down[-1])) for x in across] + [
        ((across[0], y), (across[-1], y)) for y in down
    ]
    axes.add_collection(LineCollection(lines, colors="white", linewidths=width + 1.2, alpha=0.5, zorder=2.5))
    axes.add_collection(LineCollection(lines, colors=BLUE, linewidths=width, zorder=3, capstyle="projecting"))


def _region(axes: Any, region: Region) -> None:
    """Outline of the whole cells that the box was rounded to, where the bins cover other ground."""
    from matplotlib.patches import Rectangle

    taken = [
        _pixels(region, v)[0]
        for v in (region.x.region_low, region.y.region_low, region.x.region_high, region.y.region_high)
    ]
    if not region.reads.x.rounds or np.allclose(taken, region.effective_box):
        return
    x1, y1, x2, y2 = taken
    axes.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=BLUE, lw=1.1, ls=(0, (1, 1.6)), zorder=3.5)
    )


def _unread(axes: Any, region: Region) -> None:
    """Hatch the part of the box that no bin covers."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    box, effective = region.where.box, region.effective_box
    x1, y1 = max(box[0], effective[0]), max(box[1], effective[1])
    x2, y2 = min(box[2], effective[2]), min(box[3], effective[3])
    if x2 <= x1 or y2 <= y1:
        x1, y1, x2, y2 = box[0], box[1], box[0], box[1]
    if (x1, y1, x2, y2) == box:
        return
    outer = [(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3]), (box[0], box[1])]
    inner = [(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)]
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * 2
    patch = PathPatch(Path(outer + inner, codes), fc=VERMILLION, alpha=0.14, lw=0, zorder=2)
    axes.add_patch(patch)
    axes.add_patch(
        PathPatch(Path(outer + inner, codes), fill=False, ec=VERMILLION, hatch="////", lw=0, zorder=2)
    )


def _arrows(axes: Any, region: Region) -> None:
    """From where a bin's centre should be to where it is; of every third bin or so, to stay readable."""
    span = axes.get_xlim()[1] - axes.get_xlim()[0]
    rows, columns = (
        np.unique(np.linspace(0, n - 1, 3).round().astype(int)) for n in region.where.output_size
    )
    dy, dx = np.meshgrid(region.offsets(0)[rows], region.offsets(1)[columns], indexing="ij")
    y, x = np.meshgrid(
        _pixels(region, region.y.centres[0])[rows],
        _pixels(region, region.x.centres[0])[columns],
        indexing="ij",
    )
    for x2, y2, mx, my in zip(x.flat, y.flat, dx.flat, dy.flat, strict=True):
        if np.hypot(mx, my) < 0.004 * span:
            continue
        axes.plot(x2 - mx, y2 - my, "o", ms=2.6, mfc="white", mec=VERMILLION, mew=0.9, zorder=7)
        axes.annotate(
            "",
            (x2, y2),
            xytext=(x2 - mx, y2 - my),
            arrowprops={
                "arrowstyle": "-|>,head_length=0.32,head_width=0.16",
                "color": VERMILLION,
                "lw": 1.3,
                "shrinkA": 1.4,
                "shrinkB": 0,
            },
            zorder=7,
        )


def _margins(axes: Any, region: Region, window: tuple[float, float, float, float]) -> None:
    """Each column's and row's offset in pixels, above and to the left of the grid."""
    for axis in (0, 1):
        offsets = region.offsets(axis)
        ideal = region.ideal_y if axis == 0 else region.ideal_x
        centres = _pixels(region, (ideal[0] + ideal[1]) / 2)
        # Only as many labels as there is room for.
        room = _PANEL * 72 * abs(float(ideal[1][0] - ideal[0][0])) * region.where.stride
        step = math.ceil((24 if axis == 1 else 10) * (window[2] - window[0]) / room)
        for p in range(0, len(offsets), step):
            label = f"{offsets[p]:+.1f}" if abs(offsets[p]) < 99.95 else f"{offsets[p]:+.0f}"
            label = ("0" if abs(offsets[p]) < 0.05 else label).replace("-", "−")
            colour = QUIET if label == "0" else VERMILLION
            at = (centres[p], window[1]) if axis == 1 else (window[0], centres[p])
            text = axes.annotate(
                label,
                at,
                xytext=(0, 3) if axis == 1 else (-3, 0),
                textcoords="offset points",
                ha="center" if axis == 1 else "right",
                va="bottom" if axis == 1 else "center",
                size=7,
                color=colour,
                annotation_clip=False,
            )
            text.set_in_layout(False)


def _legend(figure: Any, left: float, bottom: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=INK, lw=1.6, label="box"),
        Line2D([], [], color=INK, lw=0.7, ls=(0, (3, 2.4)), label="its bins"),
        Line2D([], [], color=BLUE, lw=1.3, label="bins as read"),
        Line2D([], [], color=BLUE, lw=1.1, ls=(0, (1, 1.6)), label="rounded box"),
        Line2D([], [], color=BLUE, lw=0, marker="o", ms=3.2, label="sample"),
        Patch(fc=_TINTS[0], ec=FAINT, label="cell read"),
        Patch(fc="#f9e6d9", ec=VERMILLION, hatch="////", lw=0, label="not covered"),
        Line2D([], [], color=VERMILLION, lw=1.2, marker=">", ms=3.5, label="offset (px)"),
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(left, 0.0),
        ncols=8 if figure.get_figwidth() > 9 else 4,
        fontsize=8,
        handlelength=1.4,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.4,
        borderpad=0,
    )
