"""Scaling the pixels of an image; boxes and masks are the caller's."""

from __future__ import annotations

from typing import Literal, TypeAlias

import cv2
import numpy as np
import PIL.Image

from maskrcnn.structures.samples import Image

#: ``linear``: of the 4 nearest pixels, as OpenCV (so mmdetection, and torchvision's detectors in float):
#: fast, but below half size pixels are skipped.  ``area``: the mean of the pixels under each when both sides
#: shrink, else linear.  ``antialias``: weighed by a triangle as wide as the new pixels, so that along a side
#: that shrinks every pixel counts: PIL's bilinear, which Detectron2 and maskrcnn-benchmark use.
Resample: TypeAlias = Literal["linear", "area", "antialias"]

#: The keys of transforms that had another name: old -> new.
RENAMED = {"interpolation": "resample"}


def resample(image: Image, height: int, width: int, how: Resample) -> Image:
    """``image`` at ``height`` x ``width`` pixels.

    Where no side shrinks, PIL's bilinear and OpenCV's linear are one function, rounded in other places: a
    value differs by 1 in 255 at most.  There the faster one, OpenCV, serves ``antialias`` too; where a side
    shrinks, ``antialias`` gives what PIL gives to the bit, on every machine.

    Args:
        image: [H, W, 3], uint8 or float32.

    Returns:
        [height, width, 3] of the same type, writable.
    """
    h, w = image.shape[:2]
    if how == "antialias" and (height < h or width < w):
        return _antialias(image, height, width)
    shrinks = height < h and width < w
    mode = cv2.INTER_AREA if how == "area" and shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=mode)


def _antialias(image: Image, height: int, width: int) -> Image:
    size = (width, height)
    if image.dtype == np.uint8:
        return np.array(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BILINEAR))
    channels = [PIL.Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(c.resize(size, PIL.Image.Resampling.BILINEAR)) for c in channels], axis=-1)
