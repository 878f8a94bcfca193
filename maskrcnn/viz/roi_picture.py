"""The picture: a box, what each operator reads for it, and how far that is off; side by side.

One column an operator, the image above, the feature grid below.  Black is what was asked for, blue what is
read, vermillion the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.viz.figure import new_figure, put_legend, style
from maskrcnn.viz.palette import BLUE, FAINT, INK, QUIET, VERMILLION
from maskrcnn.viz.roi_view import Box, OperatorView

#: More sampling points than this are a blue mist, and are not drawn.
MOST_POINTS = 4000
#: A cell that one bin reads, that two read, that more read.
_TINTS = ("#d9eaf6", "#b5d4ea", "#8fbcdc")
_COLUMN, _PANEL = 3.5, 3.05  # inches
_ARROW = {
    "arrowstyle": "-|>,head_length=0.32,head_width=0.16",
    "color": VERMILLION,
    "lw": 1.3,
    "shrinkA": 1.4,
    "shrinkB": 0,
}


def draw(image: npt.NDArray[np.uint8], views: Sequence[OperatorView], title: str) -> Any:
    """A matplotlib figure with one column a view; all are of one box in one image.

    image: uint8 [H, W, 3] RGB.

    Raises:
        UserError: matplotlib is not installed.
    """
    most = max(len(view.facts) for view in views)
    n = len(views)
    top, foot = 0.72, 0.2 + 0.185 * most + 0.42
    width, height = _COLUMN * n + 0.25, top + 2 * _PANEL + 0.5 + foot
    figure = new_figure(width, height)
    window = _window(views)
    with style():
        figure.text(0.3 / width, 1 - 0.22 / height, title, size=12.5, weight="bold", va="center")
        for k, view in enumerate(views):
            left = (0.3 + _COLUMN * k + 0.22) / width
            size = (_PANEL / width, _PANEL / height)
            upper = figure.add_axes((left, 1 - (top + _PANEL) / height, *size))
            lower = figure.add_axes((left, 1 - (top + 2 * _PANEL + 0.5) / height, *size))
            upper.set_title(view.name, weight="bold", size=10.5, pad=5, x=0.0)
            _image_panel(upper, image, view, window)
            _grid_panel(lower, view, window)
            y = 1 - (top + 2 * _PANEL + 0.5 + 0.2) / height
            for i, line in enumerate(view.facts):
                last = i == len(view.facts) - 1
                figure.text(
                    left,
                    y - 0.185 * i / height,
                    line,
                    size=8.6,
                    va="center",
                    weight="bold" if last else "normal",
                    color=(VERMILLION if view.is_off else BLUE) if last else INK,
                )
        _legend(figure, 0.52 / width)
    return figure


def _window(views: Sequence[OperatorView]) -> Box:
    """What all panels show, px: a square around the box and all that is read, and a margin."""
    boxes = np.array([views[0].box, *(view.effective for view in views)])
    (x1, y1), (x2, y2) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    side = max(x2 - x1, y2 - y1)
    side += 2 * max(0.06 * side, 0.75 * views[0].stride)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def _frame(axes: Any, window: Box) -> None:
    x1, y1, x2, y2 = window
    axes.set_xlim(x1, x2)
    axes.set_ylim(y2, y1)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _outline(axes: Any, box: Box, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))


def _grid(axes: Any, xs: Iterable[float], ys: Iterable[float], box: Box, **style: Any) -> None:
    """Lines at ``xs`` and ``ys`` across the box."""
    from matplotlib.collections import LineCollection

    x1, y1, x2, y2 = box
    lines = [((x, y1), (x, y2)) for x in xs] + [((x1, y), (x2, y)) for y in ys]
    axes.add_collection(LineCollection(lines, **style))


def _overlay(axes: Any, view: OperatorView, window: Box, width: float, dots: float) -> None:
    """What both panels of a column show."""
    _frame(axes, window)
    _unread(axes, view)
    _bins(axes, view, width)
    _points(axes, view, window, dots)
    _box(axes, view)


def _image_panel(axes: Any, image: npt.NDArray[np.uint8], view: OperatorView, window: Box) -> None:
    h, w = view.image_size
    # Towards white, so that lines read on any image.
    pale = (image.astype(np.float32) * 0.62 + 255 * 0.38).astype(np.uint8)
    axes.imshow(pale, extent=(0, w, h, 0), interpolation="bilinear", zorder=0)
    _outline(axes, (0, 0, w, h), ec=FAINT, lw=0.8, zorder=1)
    _overlay(axes, view, window, 1.0, 0.75)
    _arrows(axes, view)


def _grid_panel(axes: Any, view: OperatorView, window: Box) -> None:
    from matplotlib.colors import ListedColormap

    ys, xs = view.y.cells, view.x.cells
    axes.imshow(
        np.minimum(view.readers, len(_TINTS)),
        extent=(xs[0], xs[-1], ys[-1], ys[0]),
        cmap=ListedColormap(["#ffffff", *_TINTS]),
        vmin=0,
        vmax=len(_TINTS),
        interpolation="nearest",
        zorder=0,
    )
    thin = min(0.7, 18 * view.stride / (window[2] - window[0]))
    _grid(axes, xs, ys, (xs[0], ys[0], xs[-1], ys[-1]), colors=FAINT, linewidths=thin, zorder=1)
    _overlay(axes, view, window, 1.3, 1.0)
    _margins(axes, view, window)


def _points(axes: Any, view: OperatorView, window: Box, size: float) -> None:
    """Where the operator samples; ``size`` scales the dots."""
    at = view.samples
    if not len(at):
        return
    # Points side by side across the box; a dot takes a fifth of the gap between two.
    span = max(at[:, 1].max() - at[:, 1].min(), view.stride)
    gap = _PANEL * 72 * span / (window[2] - window[0]) / len(at) ** 0.5
    diameter = np.clip(gap * 0.22, 1.6, 4.0) * size
    axes.scatter(at[:, 1], at[:, 0], s=diameter**2, c=BLUE, lw=0, zorder=6)


def _box(axes: Any, view: OperatorView) -> None:
    """The box, and thin dashes where its bins should be cut."""
    dashes: Any = {"linestyles": (0, (3, 2.4)), "colors": INK, "linewidths": 0.6}
    _grid(axes, view.x.ideal[1:-1], view.y.ideal[1:-1], view.box, alpha=0.75, zorder=4, **dashes)
    _outline(axes, view.box, ec="white", lw=3.0, alpha=0.7, zorder=4.5)
    _outline(axes, view.box, ec=INK, lw=1.6, zorder=5)


def _bins(axes: Any, view: OperatorView, width: float) -> None:
    """Outlines of the bins as read (bare points have none), and of the cells the box was rounded to."""
    x, y = view.x, view.y
    if (x.low == x.high).all() or (y.low == y.high).all():
        return
    if view.rounded is not None:
        _outline(axes, view.rounded, ec=BLUE, lw=1.1, ls=(0, (1, 1.6)), zorder=3.5)
    across, down = (sorted({*axis.low.tolist(), *axis.high.tolist()}) for axis in (x, y))
    edges = (across, down, (across[0], down[0], across[-1], down[-1]))
    _grid(axes, *edges, colors="white", linewidths=width + 1.2, alpha=0.5, zorder=2.5)
    _grid(axes, *edges, colors=BLUE, linewidths=width, zorder=3, capstyle="projecting")


def _unread(axes: Any, view: OperatorView) -> None:
    """Hatch the part of the box that no bin covers."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    box, effective = view.box, view.effective
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


def _arrows(axes: Any, view: OperatorView) -> None:
    """From where a bin's centre should be to where it is; of every third bin or so, to stay readable."""
    span = axes.get_xlim()[1] - axes.get_xlim()[0]
    rows, columns = (
        np.unique(np.linspace(0, len(axis.low) - 1, 3).round().astype(int)) for axis in (view.y, view.x)
    )
    dy, dx = np.meshgrid(view.y.offsets[rows], view.x.offsets[columns], indexing="ij")
    y, x = np.meshgrid(view.y.centres[rows], view.x.centres[columns], indexing="ij")
    for x2, y2, mx, my in zip(x.flat, y.flat, dx.flat, dy.flat, strict=True):
        if np.hypot(mx, my) < 0.004 * span:
            continue
        axes.plot(x2 - mx, y2 - my, "o", ms=2.6, mfc="white", mec=VERMILLION, mew=0.9, zorder=7)
        axes.annotate("", (x2, y2), xytext=(x2 - mx, y2 - my), arrowprops=_ARROW, zorder=7)


def _margins(axes: Any, view: OperatorView, window: Box) -> None:
    """Each column's and row's offset in pixels, above and to the left of the grid."""
    for axis, along in enumerate((view.y, view.x)):
        offsets, centres = along.offsets, along.wanted
        # Only as many labels as there is room for.
        room = _PANEL * 72 * abs(float(along.ideal[1] - along.ideal[0]))
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


def _legend(figure: Any, left: float) -> None:
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
    columns = 8 if figure.get_figwidth() > 9 else 4
    put_legend(figure, handles, (left, 0.0), columns, fontsize=8, handletextpad=0.5, borderaxespad=0.4)
