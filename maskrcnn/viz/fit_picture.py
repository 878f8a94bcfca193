"""How a model fits its data, as a picture: sizes of objects, anchors, objects an image.

Legend: G = objects, A = anchors (of all levels), N = images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.errors import plural
from maskrcnn.viz.figure import new_figure, style
from maskrcnn.viz.palette import BLUE, FAINT, INK, ORANGE, QUIET, VERMILLION

Floats = npt.NDArray[np.float64]
#: Points of a scatter; more hide one another.
_DOTS = 4000
_BINS = 40


@dataclass(frozen=True)
class Fit:
    """All in pixels of the network frame.

    sizes: float64 [G, 2], width and height of each object.
    reached: bool [G], whether an anchor lies near.
    anchors: float64 [A, 2], width and height.
    counts: int64 [N], objects of each image.
    small: below this many pixels (square root of the area) objects are hardly found.
    caps: what a key lets through of an image, by the key, the lowest first.
    """

    sizes: Floats
    reached: npt.NDArray[np.bool_]
    anchors: Floats
    counts: npt.NDArray[np.int64]
    small: float
    caps: Sequence[tuple[str, int]]


def draw_fit(fit: Fit, title: str) -> Any:
    """A matplotlib figure of three panels.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = new_figure(10.2, 3.7)
    with style():
        figure.text(0.062, 0.93, title, size=11.5, weight="bold")
        box = {"left": 0.062, "right": 0.985, "top": 0.79, "bottom": 0.15, "wspace": 0.24}
        sides, pairs, images = figure.subplots(1, 3, gridspec_kw=box)
        _sides(sides, fit)
        _pairs(pairs, fit)
        _images(images, fit)
        for panel in (sides, pairs, images):
            panel.spines[["top", "right"]].set_visible(False)
    return figure


def _sides(panel: Any, fit: Fit) -> None:
    """Sizes, with the share that is too small."""
    sides = np.sqrt(fit.sizes.prod(1))
    edges = np.geomspace(max(sides.min(), 1), max(sides.max(), 2) * 1.01, _BINS)
    edges = np.unique(np.concatenate([edges, [fit.small]]))
    for part, colour in ((sides[sides < fit.small], VERMILLION), (sides[sides >= fit.small], BLUE)):
        panel.hist(part, edges, color=colour)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.axvline(fit.small, color=INK, linewidth=0.8)
    share = (sides < fit.small).mean()
    panel.set_title(f"size: {share:.0%} under {fit.small:g} px")
    panel.set_xlabel("side as the network sees it, px")
    panel.set_ylabel("objects")


def _pairs(panel: Any, fit: Fit) -> None:
    """Objects that anchors reach or not, and the anchors."""
    step = max(1, len(fit.sizes) // _DOTS)
    sizes, reached = fit.sizes[::step], fit.reached[::step]
    for part, colour in ((sizes[reached], BLUE), (sizes[~reached], VERMILLION)):
        panel.plot(*part.T, ".", color=colour, markersize=2.0, alpha=0.5, markeredgewidth=0)
    panel.plot(*fit.anchors.T, "s", color=ORANGE, markersize=5, markeredgecolor=INK, markeredgewidth=0.5)
    top = float(np.quantile(fit.sizes, 0.999)) * 1.6
    low = max(float(np.quantile(fit.sizes, 0.001)) / 1.4, 0.5)
    panel.set(xscale="log", yscale="log", xlim=(low, top), ylim=(low, top), aspect="equal")
    for axis in (panel.xaxis, panel.yaxis):
        ticks = [t for t in (2, 4, 8, 16, 32, 64, 128, 256, 512) if low <= t <= top]
        axis.set_ticks(ticks, labels=[str(t) for t in ticks])
        axis.set_ticks([], minor=True)
    panel.set_title(f"anchors (squares) reach {fit.reached.mean():.0%}")
    panel.set_xlabel("width, px")
    panel.set_ylabel("height, px")


def _images(panel: Any, fit: Fit) -> None:
    """Objects an image, with the caps that cut them."""
    most = int(max(fit.counts.max(initial=1), 1))
    panel.hist(fit.counts, np.linspace(0, most + 1, min(_BINS, most + 2)), color=BLUE)
    panel.set_xlabel("objects of an image")
    panel.set_ylabel("images")
    panel.set_title(f"caps: at most {plural(most, 'object')} an image")
    height = panel.get_ylim()[1]
    for number, (key, cap) in enumerate(fit.caps):
        over = f"{(fit.counts > cap).mean():.0%} of images have more" if cap < most else "no image has more"
        panel.axvline(cap, color=QUIET if cap >= most else VERMILLION, linewidth=1)
        panel.text(
            1.0,
            1.0 - 0.14 * number,
            f"{key}: {cap}\n{over}",
            transform=panel.transAxes,
            size=7.0,
            ha="right",
            va="top",
            backgroundcolor="white",
        )
    right = max([most + 1, *(cap * 1.05 for _, cap in fit.caps if cap <= 2 * most)])
    panel.set(xlim=(0, right), ylim=(0, height * 1.4))
    panel.grid(axis="y", color=FAINT, linewidth=0.4)
    panel.set_axisbelow(True)
