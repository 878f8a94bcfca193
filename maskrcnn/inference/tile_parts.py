"""What windows see of objects, and how far two windows agree that they see one.

All is in the image's frame, pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskrcnn.data.windows import Window
from maskrcnn.structures import rle

Bitmap = npt.NDArray[np.uint8]
#: x1, y1, x2, y2.
Box = tuple[float, float, float, float]

#: A part lies at its window's border where it comes this near: pixels, and a share of its own side, for a
#: mask of few cells is vague by about one.
_NEAR, _NEAR_SHARE = 2.0, 0.04
#: Pixels of background that make two parts of a window lie apart.
_GAP = 3


@dataclass(frozen=True, eq=False)
class TilePart:
    """A detection of one window.

    number: of the window, row by row.  window: where that lies.
    record: the COCO record, in the window's frame.
    box: xyxy, the record's.
    corner: (x, y) of ``bitmap``.  bitmap: 0/1 [h, w], the mask around its pixels; of a model without masks
        the box.
    """

    number: int
    window: Window
    record: dict[str, Any]
    box: Box
    corner: tuple[int, int]
    bitmap: Bitmap
    area: int

    @property
    def score(self) -> float:
        return float(self.record["score"])

    @property
    def category(self) -> int:
        return int(self.record["category_id"])


def read_part(number: int, window: Window, record: dict[str, Any]) -> TilePart | None:
    """The part that a record of a window is; None where its mask has no pixel."""
    x, y, width, height = record["bbox"]
    box = (window.x + x, window.y + y, window.x + x + width, window.y + y + height)
    if "segmentation" in record:
        code = record["segmentation"]
        counts = code["counts"]
        counts = counts.encode("ascii") if isinstance(counts, str) else counts
        bitmap, x0, y0 = rle.decode_crop({"size": code["size"], "counts": counts})
    else:
        x0, y0 = max(round(x), 0), max(round(y), 0)
        x1, y1 = min(round(x + width), window.width), min(round(y + height), window.height)
        bitmap = np.ones((max(y1 - y0, 0), max(x1 - x0, 0)), dtype=np.uint8)
    if not bitmap.size:
        return None
    corner = window.x + x0, window.y + y0
    return TilePart(number, window, record, box, corner, bitmap, int(bitmap.sum()))


class Agreement(NamedTuple):
    """Of two parts, in what both their windows show.

    iou: of the masks there.  contained: how much of the smaller one the other covers.
    """

    iou: float
    contained: float


def agreement(a: TilePart, b: TilePart) -> Agreement:
    """How far two parts agree where both windows look."""
    zone = _zone(a.window, b.window)
    first, second = _inside(a, zone), _inside(b, zone)
    counts = int(first.sum()), int(second.sum())
    if not all(counts):
        return Agreement(0.0, 0.0)
    low = [max(a.corner[k], b.corner[k], zone[k]) for k in (0, 1)]
    high = [
        min(c[k] + m.shape[1 - k] for c, m in ((a.corner, a.bitmap), (b.corner, b.bitmap))) for k in (0, 1)
    ]
    shared = (low[0], low[1], min(high[0], zone[2]), min(high[1], zone[3]))
    both = int((_inside(a, shared) & _inside(b, shared)).sum()) if _holds(shared) else 0
    return Agreement(both / (counts[0] + counts[1] - both), both / min(counts))


def _zone(a: Window, b: Window) -> tuple[int, int, int, int]:
    (ax, ay, bx, by), (cx, cy, dx, dy) = a.box, b.box
    return max(ax, cx), max(ay, cy), min(bx, dx), min(by, dy)


def _holds(box: tuple[int, int, int, int]) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def _inside(part: TilePart, box: tuple[int, int, int, int]) -> Bitmap:
    x, y = part.corner
    rows = slice(max(box[1] - y, 0), max(box[3] - y, 0))
    return part.bitmap[rows, max(box[0] - x, 0) : max(box[2] - x, 0)]


def clearance(box: Box, window: Window, size: tuple[int, int]) -> float:
    """How far a box stays from the borders of a window that are none of the image's, as a factor of what
    counts as near; infinite where there is no such border, negative where it reaches beyond.

    size: (height, width) of the image.
    """
    x1, y1, x2, y2 = window.box
    near_x = _NEAR + _NEAR_SHARE * (box[2] - box[0])
    near_y = _NEAR + _NEAR_SHARE * (box[3] - box[1])
    sides = (
        ((box[0] - x1) / near_x, x1 > 0),
        ((box[1] - y1) / near_y, y1 > 0),
        ((x2 - box[2]) / near_x, x2 < size[1]),
        ((y2 - box[3]) / near_y, y2 < size[0]),
    )
    return min((distance for distance, inside in sides if inside), default=float("inf"))


def hull(boxes: Sequence[Box]) -> Box:
    """The box around boxes."""
    values = np.array(boxes)
    x1, y1 = values[:, :2].min(0).tolist()
    x2, y2 = values[:, 2:].max(0).tolist()
    return x1, y1, x2, y2


def joined(parts: Sequence[TilePart]) -> tuple[Bitmap, int, int]:
    """The union of masks, and its corner (x, y)."""
    x1, y1 = (min(p.corner[k] for p in parts) for k in (0, 1))
    x2 = max(p.corner[0] + p.bitmap.shape[1] for p in parts)
    y2 = max(p.corner[1] + p.bitmap.shape[0] for p in parts)
    out = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
    for part in parts:
        (x, y), (height, width) = part.corner, part.bitmap.shape
        out[y - y1 : y - y1 + height, x - x1 : x - x1 + width] |= part.bitmap
    return out, x1, y1


def apart(a: TilePart, b: TilePart) -> bool:
    """Whether pixels of background lie between two masks everywhere, some of them."""
    (ax, ay), (bx, by) = a.corner, b.corner
    x, y = min(ax, bx), min(ay, by)
    height = max(ay + a.bitmap.shape[0], by + b.bitmap.shape[0]) - y
    width = max(ax + a.bitmap.shape[1], bx + b.bitmap.shape[1]) - x
    grid = np.zeros((height + 2 * _GAP, width + 2 * _GAP), dtype=np.uint8)
    h, w = a.bitmap.shape
    for dy in range(2 * _GAP + 1):  # the mask of a, wider in all directions
        for dx in range(2 * _GAP + 1):
            grid[ay - y + dy : ay - y + dy + h, ax - x + dx : ax - x + dx + w] |= a.bitmap
    h, w = b.bitmap.shape
    top, left = by - y + _GAP, bx - x + _GAP
    return not bool((grid[top : top + h, left : left + w] & b.bitmap).any())
