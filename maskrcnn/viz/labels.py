"""Text on pictures: readable at any size, inside the image, and not on top of each other."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.viz.palette import Colour, ink

Image = npt.NDArray[np.uint8]
Rect = tuple[int, int, int, int]
FONT = cv2.FONT_HERSHEY_SIMPLEX
#: More labels than MANY that would cover more than this share of the picture are a crowd.
CROWDED = 0.08
MANY = 20


@dataclass(frozen=True)
class Label:
    """A text to write near a box: ``box`` (x1, y1, x2, y2) in pixels of the picture."""

    text: str
    box: Rect
    colour: Colour


def font_scale(height: int, width: int) -> float:
    """Size of the letters that suits a picture of this size: 0.45 up to 700 px, growing slowly above."""
    return 0.45 * max(1.0, math.pow(max(height, width) / 700, 0.6))


def weight(scale: float) -> int:
    """Stroke thickness of letters of that size, in pixels."""
    return max(1, round(1.2 * scale))


def printable(text: str) -> str:
    """``text`` as this OpenCV can write it: before version 5 its fonts know ASCII alone."""
    if int(cv2.__version__.split(".")[0]) >= 5:
        return text
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode()


def text_box(text: str, scale: float) -> tuple[int, int, int]:
    """Width and height of a label with its margins, and the baseline's distance from its top, in pixels."""
    (width, height), below = cv2.getTextSize(text, FONT, scale, weight(scale))
    pad = max(2, round(5 * scale))
    return width + 2 * pad, height + below + pad, height + pad - pad // 2


def place_labels(labels: Sequence[Label], height: int, width: int, scale: float) -> list[Rect | None]:
    """Where each label goes, the first ones first.

    Tried in turn: above the box, inside its top, below it, inside its bottom; each pushed into the picture.
    A label that would cover another everywhere gets None; in a crowd (see ``CROWDED``) so does one
    larger than half its box: the objects are what one looks at.
    """
    areas = [w * h for w, h, _ in (text_box(label.text, scale) for label in labels)]
    crowded = len(labels) > MANY and sum(areas) > CROWDED * height * width
    out: list[Rect | None] = []
    for label, area in zip(labels, areas, strict=True):
        w, h, _ = text_box(label.text, scale)
        x1, y1, x2, y2 = label.box
        if crowded and 2 * area > (x2 - x1) * (y2 - y1):
            out.append(None)
            continue
        spots = [(x1, y1 - h), (x1, y1), (x1, y2), (x1, y2 - h), (x2 - w, y1 - h), (x2, y1)]
        inside = ((min(max(x, 0), max(width - w, 0)), min(max(y, 0), max(height - h, 0))) for x, y in spots)
        rects = ((left, top, left + w, top + h) for left, top in inside)
        out.append(next((r for r in rects if not any(_overlap(r, other) for other in out if other)), None))
    return out


def draw_labels(canvas: Image, labels: Sequence[Label], scale: float | None = None) -> None:
    """Write the labels onto ``canvas`` [H, W, 3], in place."""
    height, width = canvas.shape[:2]
    scale = font_scale(height, width) if scale is None else scale
    labels = [Label(printable(label.text), label.box, label.colour) for label in labels if label.text]
    for label, rect in zip(labels, place_labels(labels, height, width, scale), strict=True):
        if rect is None:
            continue
        write(canvas, label.text, rect, label.colour, scale)


def write(canvas: Image, text: str, rect: Rect, colour: Colour, scale: float) -> None:
    """One label with a background of ``colour`` in ``rect``, in place."""
    x1, y1, x2, y2 = rect
    pad = max(2, round(5 * scale))
    baseline = text_box(text, scale)[2]
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, cv2.FILLED)
    cv2.putText(canvas, text, (x1 + pad, y1 + baseline), FONT, scale, ink(colour), weight(scale), cv2.LINE_AA)


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
