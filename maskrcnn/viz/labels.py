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
#: More labels than MANY cover no more than this share of the picture.
CROWDED = 0.05
MANY = 20
#: Share of an object that a label may cover.
COVERED = 0.25
#: Letters smaller than this are not read.
LEAST = 0.28


@dataclass(frozen=True)
class Label:
    """A text to write near a box: ``box`` (x1, y1, x2, y2) in pixels of the picture."""

    text: str
    box: Rect
    colour: Colour


def font_scale(height: int, width: int) -> float:
    """Size of the letters that suits a picture of this size: 0.35 up to 350 px, growing slowly above."""
    return max(0.35, 0.45 * math.pow(max(height, width) / 700, 0.6))


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


def place_labels(
    labels: Sequence[Label], height: int, width: int, scale: float, around: Sequence[Rect] = ()
) -> list[Rect | None]:
    """Where each label goes, the first ones first.

    Tried in turn: above the box, inside its top, below it, inside its bottom, at its right; each pushed into
    the picture.  A label that would cover another everywhere, or much of an object, gets None; and so do,
    of more than ``MANY``, those behind the ones that together cover ``CROWDED`` of the picture: the objects
    are what one looks at.

    Args:
        around: boxes of all objects; none: those of the labels.
    """
    objects = np.array([*around] or [label.box for label in labels], dtype=np.float64).reshape(-1, 4)
    sizes = np.maximum(objects[:, 2:] - objects[:, :2], 1).prod(axis=1)
    room = CROWDED * height * width if len(labels) > MANY else math.inf
    taken = np.zeros((0, 4))
    out: list[Rect | None] = []
    for label in labels:
        w, h, _ = text_box(label.text, scale)
        x1, y1, x2, y2 = label.box
        spots = [(x1, y1 - h), (x1, y1), (x1, y2), (x1, y2 - h), (x2 - w, y1 - h), (x2, y1)]
        inside = ((min(max(x, 0), max(width - w, 0)), min(max(y, 0), max(height - h, 0))) for x, y in spots)
        rects = ((left, top, left + w, top + h) for left, top in inside) if w * h <= room else ()
        good = (
            rect
            for rect in rects
            if not _shared(rect, taken).any() and (_shared(rect, objects) <= COVERED * sizes).all()
        )
        place = next(good, None)
        out.append(place)
        if place is not None:
            taken, room = np.concatenate((taken, [place])), room - w * h
    return out


def draw_labels(
    canvas: Image, labels: Sequence[Label], scale: float | None = None, around: Sequence[Rect] = ()
) -> None:
    """Write the labels onto ``canvas`` [H, W, 3], in place; ``around``: see :func:`place_labels`."""
    height, width = canvas.shape[:2]
    scale = font_scale(height, width) if scale is None else scale
    labels = [Label(printable(label.text), label.box, label.colour) for label in labels if label.text]
    for label, rect in zip(labels, place_labels(labels, height, width, scale, around), strict=True):
        if rect is None:
            continue
        write(canvas, label.text, rect, label.colour, scale)


def draw_inside(canvas: Image, texts: Sequence[str], boxes: Sequence[Rect]) -> list[Rect | None]:
    """Write each text into the middle of its box, white on a dark rim, in place; where, None without room."""
    most = font_scale(*canvas.shape[:2])
    out: list[Rect | None] = []
    for text, (x1, y1, x2, y2) in zip(map(printable, texts), boxes, strict=True):
        (width, height), _ = cv2.getTextSize(text, FONT, 1.0, 1)
        scale = min(most, (x2 - x1) / max(width, 1), (y2 - y1) / max(height, 1))
        if scale < LEAST:
            out.append(None)
            continue
        left, bottom = round((x1 + x2 - width * scale) / 2), round((y1 + y2 + height * scale) / 2)
        out.append((left, round(bottom - height * scale), round(left + width * scale), bottom))
        thick = weight(scale)
        cv2.putText(canvas, text, (left, bottom), FONT, scale, (0, 0, 0), thick + 2, cv2.LINE_AA)
        cv2.putText(canvas, text, (left, bottom), FONT, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return out


def write(canvas: Image, text: str, rect: Rect, colour: Colour, scale: float) -> None:
    """One label with a background of ``colour`` in ``rect``, in place."""
    x1, y1, x2, y2 = rect
    pad = max(2, round(5 * scale))
    baseline = text_box(text, scale)[2]
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, cv2.FILLED)
    cv2.putText(canvas, text, (x1 + pad, y1 + baseline), FONT, scale, ink(colour), weight(scale), cv2.LINE_AA)


def _shared(rect: Rect, others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Area that a rectangle shares with each of [N, 4]."""
    low, high = np.maximum(rect[:2], others[:, :2]), np.minimum(rect[2:], others[:, 2:])
    sides = np.maximum(high - low, 0)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float64)
