"""Where square windows lie that cover an image.

Evenly, so that any two neighbours overlap by at least what is asked for and the last ends with the image.  An
image no larger than a window is one window.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Pixels that neighbours overlap by at least, so that halves of an object can be told to be one.
LEAST_OVERLAP = 16


class Window(NamedTuple):
    """A part of an image: its corner and size, pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """As xyxy."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def meets(self, other: Window) -> bool:
        """Whether they share a pixel."""
        (ax, ay, bx, by), (cx, cy, dx, dy) = self.box, other.box
        return max(ax, cx) < min(bx, dx) and max(ay, cy) < min(by, dy)


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of ``size`` begin along a side of ``length`` pixels."""
    if length <= size:
        return [0]
    step = size - max(int(np.ceil(size * overlap)), min(LEAST_OVERLAP, size // 2))
    count = 1 + -(-(length - size) // step)
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def rows_of_windows(height: int, width: int, size: int, overlap: float) -> list[list[Window]]:
    """All windows of an image, row by row, from left to right."""
    wide, tall = min(size, width), min(size, height)
    columns = starts(width, size, overlap)
    return [[Window(x, y, wide, tall) for x in columns] for y in starts(height, size, overlap)]


def count_windows(height: int, width: int, size: int, overlap: float) -> int:
    """How many :func:`rows_of_windows` gives."""
    return len(starts(height, size, overlap)) * len(starts(width, size, overlap))
