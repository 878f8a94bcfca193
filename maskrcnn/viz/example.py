"""An object to point at when no image is given: a cat that fills its box exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

#: The worked example of the literature: an 800 x 800 image, a box of 665 x 665 pixels, stride 32, 7 x 7 bins.
#: It says nothing of where the box lies; (64, 64) is a whole number of cells, so that its figures hold.
IMAGE_SIZE = (800, 800)
BOX = (64.0, 64.0, 729.0, 729.0)
STRIDE = 32
OUTPUT_SIZE = 7

_SHIFT = 6  # cv2 draws at 1/64 px

Image = npt.NDArray[np.uint8]
_WALL, _FLOOR = (238, 235, 228), (221, 214, 203)
_FUR, _DARK, _LIGHT = (196, 148, 98), (150, 105, 64), (240, 222, 198)
_EYE, _PINK, _LINE = (60, 70, 60), (214, 150, 140), (96, 66, 42)


def size_for(box: tuple[float, float, float, float]) -> tuple[int, int]:
    """(height, width) of an image that holds ``box``: the example's, or larger, up to 8192 pixels."""
    height, width = (
        min(max(side, math.ceil(end)), 8192) if math.isfinite(end) else side
        for side, end in zip(IMAGE_SIZE, (box[3], box[2]), strict=True)
    )
    return height, width


def example_image(box: tuple[float, float, float, float], size: tuple[int, int]) -> Image:
    """uint8 [H, W, 3] RGB with an object whose extent is ``box`` (xyxy, pixels); size is (height, width)."""
    image = np.empty((*size, 3), dtype=np.uint8)
    image[:] = _WALL
    _, y1, _, y2 = box
    horizon = round(y1 + 0.8 * (y2 - y1))
    image[max(horizon, 0) :] = _FLOOR
    brush = _Brush(image, box)
    # The tail touches the right edge, the body the bottom, the left ear the top, the left paw the left.
    brush.ellipse(0.76, 0.76, 0.24, 0.16, _DARK)
    brush.ellipse(0.70, 0.70, 0.17, 0.14, _FLOOR if horizon <= y1 + 0.70 * (y2 - y1) else _WALL)
    brush.ellipse(0.44, 0.72, 0.33, 0.28, _FUR)
    brush.ellipse(0.44, 0.80, 0.17, 0.20, _LIGHT)
    brush.ellipse(0.16, 0.93, 0.16, 0.07, _FUR)
    brush.ellipse(0.66, 0.93, 0.16, 0.07, _FUR)
    brush.polygon([(0.14, 0.34), (0.15, 0.0), (0.42, 0.16)], _FUR)
    brush.polygon([(0.74, 0.34), (0.73, 0.0), (0.46, 0.16)], _FUR)
    brush.polygon([(0.19, 0.24), (0.19, 0.08), (0.32, 0.17)], _PINK)
    brush.polygon([(0.69, 0.24), (0.69, 0.08), (0.56, 0.17)], _PINK)
    brush.ellipse(0.44, 0.36, 0.32, 0.25, _FUR)
    for x in (0.38, 0.44, 0.50):
        brush.ellipse(x, 0.17, 0.012, 0.055, _DARK)
    brush.ellipse(0.44, 0.47, 0.15, 0.11, _LIGHT)
    for x in (0.30, 0.58):
        brush.ellipse(x, 0.33, 0.055, 0.065, (226, 220, 150))
        brush.ellipse(x, 0.33, 0.02, 0.055, _EYE)
    brush.polygon([(0.40, 0.42), (0.48, 0.42), (0.44, 0.47)], _PINK)
    for side in (-1, 1):
        for k in (-1, 0, 1):
            brush.line((0.44 + side * 0.12, 0.48 + 0.015 * k), (0.44 + side * 0.36, 0.47 + 0.05 * k), _LINE)
    return image


class _Brush:
    """Draws in coordinates of the box: (0, 0) is its top left corner, (1, 1) its bottom right."""

    def __init__(self, image: Image, box: tuple[float, float, float, float]) -> None:
        self.image = image
        self.x1, self.y1 = box[0], box[1]
        self.w, self.h = box[2] - box[0], box[3] - box[1]

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Sequence[int]) -> None:
        t = np.linspace(0, 2 * np.pi, 120)
        self.polygon(list(zip(x + rx * np.cos(t), y + ry * np.sin(t), strict=True)), colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Sequence[int]) -> None:
        corners = np.array([self._at(p) for p in points], dtype=np.int32)
        cv2.fillPoly(self.image, [corners], list(colour), cv2.LINE_AA, _SHIFT)

    def line(self, a: tuple[float, float], b: tuple[float, float], colour: Sequence[int]) -> None:
        width = max(round(min(self.w, self.h) / 260), 1)
        cv2.line(self.image, self._at(a), self._at(b), list(colour), width, cv2.LINE_AA, _SHIFT)

    def _at(self, point: tuple[float, float]) -> tuple[int, int]:
        # cv2 puts the centre of the first pixel at 0, we its corner.
        x, y = self.x1 + point[0] * self.w - 0.5, self.y1 + point[1] * self.h - 0.5
        return round(x * 2**_SHIFT), round(y * 2**_SHIFT)
