"""Many boxes over an image, a colour a set, and the true boxes over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.viz.instances import SMALLEST, as_rgb, enlargement
from maskrcnn.viz.labels import Image
from maskrcnn.viz.palette import LESS, MORE, Colour

#: Boxes with an object, boxes without one, and the true boxes.
WITH: Colour = MORE
WITHOUT: Colour = LESS
TRUTH: Colour = (255, 255, 255)
#: What lies behind the true boxes' lines, so that they show on bright pictures too.
_EDGE: Colour = (0, 0, 0)


def draw_box_sets(
    image: npt.NDArray[Any], sets: Sequence[tuple[npt.NDArray[Any], Colour]], truth: npt.NDArray[Any]
) -> Image:
    """Draw boxes over an image, each set over those before it.

    Args:
        image: uint8 [H, W, C]; not modified.
        sets: boxes [M, 4] xyxy in pixels, with the colour of their lines.
        truth: [G, 4] xyxy in pixels, drawn last.

    Returns:
        uint8 [k * H, k * W, 3] with a whole number k >= 1, the enlargement of a small image.
    """
    canvas = as_rgb(image)
    height, width = canvas.shape[:2]
    factor = enlargement(height, width, SMALLEST)
    if factor > 1:
        size = (width * factor, height * factor)
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    thickness = max(1, factor // 3)
    for boxes, colour in sets:
        _lines(canvas, boxes * factor, colour, thickness)
    _lines(canvas, truth * factor, _EDGE, thickness + 4)
    _lines(canvas, truth * factor, TRUTH, thickness + 1)
    return canvas


def _lines(canvas: Image, boxes: npt.NDArray[Any], colour: Colour, thickness: int) -> None:
    """``boxes`` [M, 4] in pixels of ``canvas``; pixel i covers [i, i + 1)."""
    for x1, y1, x2, y2 in np.rint(boxes).astype(int).tolist():
        cv2.rectangle(canvas, (x1, y1), (max(x2 - 1, x1), max(y2 - 1, y1)), colour, thickness)
