"""A picture under construction that knows which shape is seen at every sub-pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.synthetic.shapes import Ring

#: Sub-pixels along a pixel's side.
FINE = 4
#: Fixed-point bits of vertices given to OpenCV.
_SHIFT = 8

Pixels: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.int32]


@dataclass
class Shape:
    """One painted shape (of a crowd region: all of its shapes)."""

    category: int
    full: int = 0  # sub-pixels of the whole shape, seen or not
    seen: int = 0  # sub-pixels that no later shape covers
    window: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels x0, y0, x1, y1 around all that was painted
    rings: list[Ring] = field(default_factory=list)
    inside: bool = False  # wholly in the picture
    crowd: bool = False


class Canvas:
    """The picture, and for every sub-pixel which shape is seen there (0 = background)."""

    def __init__(self, image: Ints) -> None:
        self.image = image
        height, width = image.shape[:2]
        self.owner = np.zeros((height * FINE, width * FINE), dtype=np.int16)
        self.shapes: list[Shape] = []

    def stencil(self, rings: list[Ring]) -> tuple[Pixels, int, int] | None:
        """The sub-pixels inside ``rings``, on whole pixels around them, and the corner pixel (x0, y0)."""
        height, width = self.image.shape[:2]
        low = np.floor(np.min([r.min(0) for r in rings], axis=0)).astype(int) - 1
        high = np.ceil(np.max([r.max(0) for r in rings], axis=0)).astype(int) + 1
        x0, y0, x1, y1 = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
        if x1 <= x0 or y1 <= y0:
            return None
        mask = np.zeros(((y1 - y0) * FINE, (x1 - x0) * FINE), dtype=np.uint8)
        # OpenCV's coordinate i is the centre of pixel i.
        points = [
            np.rint(((ring - (x0, y0)) * FINE - 0.5) * (1 << _SHIFT)).astype(np.int32) for ring in rings
        ]
        cv2.fillPoly(mask, points, 1, lineType=cv2.LINE_8, shift=_SHIFT)
        return mask, x0, y0

    def hides(self, mask: Pixels, x0: int, y0: int, min_visible: float) -> bool:
        """Whether painting ``mask`` would leave too little to be seen of a shape already there."""
        window = self._window(mask, x0, y0)
        covered = np.bincount(window[mask > 0], minlength=len(self.shapes) + 1)
        for i in np.flatnonzero(covered[1:]).tolist():
            shape = self.shapes[i]
            if shape.crowd or shape.seen - int(covered[i + 1]) < min_visible * shape.full:
                return True
        return False

    def paint(self, mask: Pixels, x0: int, y0: int, colour: Ints) -> None:
        """Blend ``colour`` (int [h, w, 3] over the mask's pixels) and own the sub-pixels."""
        cover = coverage(mask)[:, :, None]
        h, w = cover.shape[:2]
        below = self.image[y0 : y0 + h, x0 : x0 + w]
        whole = FINE * FINE
        below[:] = (below * (whole - cover) + colour * cover + whole // 2) // whole
        if not self.shapes:
            return  # the background owns itself
        owners = self._window(mask, x0, y0)
        inside = mask > 0
        for i, covered in enumerate(np.bincount(owners[inside]).tolist()):
            if i:
                self.shapes[i - 1].seen -= covered
        owners[inside] = len(self.shapes)
        top = self.shapes[-1]
        top.seen += int(inside.sum())
        a = top.window
        top.window = (
            (x0, y0, x0 + w, y0 + h)
            if a == (0, 0, 0, 0)
            else (min(a[0], x0), min(a[1], y0), max(a[2], x0 + w), max(a[3], y0 + h))
        )

    def _window(self, mask: Pixels, x0: int, y0: int) -> npt.NDArray[np.int16]:
        h, w = mask.shape
        return self.owner[y0 * FINE : y0 * FINE + h, x0 * FINE : x0 * FINE + w]


def coverage(mask: Pixels) -> Ints:
    """How many sub-pixels of each pixel the mask holds: int32 [h, w] in 0..16."""
    h, w = mask.shape[0] // FINE, mask.shape[1] // FINE
    cover: Ints = mask.reshape(h, FINE, w, FINE).sum((1, 3), dtype=np.int32)
    return cover
