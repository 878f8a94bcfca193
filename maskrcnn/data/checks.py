"""What an annotation of a COCO json must fulfil to be used."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np

from maskrcnn.data.coco_json import kind_of
from maskrcnn.structures import rle

#: A box may reach this many pixels over the image's edge and is clipped; beyond, it is a fault.
OVERHANG = 1.0


class FaultError(Exception):
    """An annotation cannot be used: kind for counting, reason for the sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def check_record(record: Any) -> None:
    """An annotation's ids and flag.

    Raises:
        FaultError: a key is missing or of a wrong type.
    """
    if not isinstance(record, dict):
        raise FaultError("no record", f"it is a {kind_of(record)}, not an object")
    for key in ("id", "image_id", "category_id"):
        if key not in record:
            raise FaultError("missing key", f"it has no {key!r}")
        if type(record[key]) is not int:
            raise FaultError("wrong type", f"its {key!r} is {record[key]!r}, not an integer")
    if record.get("iscrowd", 0) not in (0, 1):
        raise FaultError("wrong type", f"its 'iscrowd' is {record['iscrowd']!r}, not 0 or 1")


def check_mask(record: dict[str, Any], height: int, width: int) -> tuple[list[array[float]], bytes | None]:
    """The polygons, or the RLE text, of an annotation.

    Raises:
        FaultError: there is no segmentation, or it is broken.
    """
    segmentation = record.get("segmentation")
    if not segmentation:
        raise FaultError("no mask", "it has no 'segmentation' (a data set of boxes alone: set masks: false)")
    if isinstance(segmentation, dict):
        try:
            text: bytes = rle.normalise(segmentation, height, width)["counts"]
        except ValueError as error:
            raise FaultError("broken RLE", str(error)) from None
        return [], text
    if not isinstance(segmentation, list):
        raise FaultError("wrong type", f"its 'segmentation' is a {kind_of(segmentation)}")
    for polygon in segmentation:
        if not isinstance(polygon, array) or not all(map(math.isfinite, polygon)):
            raise FaultError("wrong type", "a polygon in its 'segmentation' is not a list of finite numbers")
        if len(polygon) % 2:
            raise FaultError("broken polygon", f"a polygon has {len(polygon)} numbers, not (x, y) pairs")
        if len(polygon) < 6:
            raise FaultError(
                "polygon of fewer than 3 points",
                f"a polygon has only {len(polygon) // 2} points, at least 3 are needed",
            )
        for values, length, axis in ((polygon[::2], width, "x"), (polygon[1::2], height, "y")):
            far = max(values, key=lambda v: abs(v - length / 2))
            if abs(far - length / 2) > 1.5 * length + 1:  # drawing it would take the memory of its extent
                raise FaultError(
                    "polygon outside the image",
                    f"a polygon has a point at {axis} = {far:g}, more than an image's length outside the"
                    f" image's {length} px",
                )
    return segmentation, None


def check_keypoints(record: dict[str, Any], count: int) -> list[float]:
    """``count`` times x, y, v as the annotation has them; zeros where it has none.

    Raises:
        FaultError: they are malformed.
    """
    values = record.get("keypoints")
    if not values:
        return [0.0] * (3 * count)
    if not isinstance(values, list) or any(type(v) not in (int, float) for v in values):
        raise FaultError("wrong type", "its 'keypoints' are not a list of numbers")
    if len(values) != 3 * count:
        raise FaultError(
            "broken keypoints",
            f"its 'keypoints' are {len(values)} numbers, not x, y, v of {count} keypoints",
        )
    if not all(map(math.isfinite, values)):
        raise FaultError("broken keypoints", "its 'keypoints' hold a number that is not finite")
    if not all(v in (0, 1, 2) for v in values[2::3]):
        raise FaultError("broken keypoints", "a flag v among its 'keypoints' is not 0, 1 or 2")
    return values


def check_box(record: dict[str, Any], height: int, width: int) -> tuple[float, float, float, float]:
    """The annotation's box as xyxy in pixels, clipped to the image.

    Raises:
        FaultError: it is missing, malformed, without area, or outside the image.
    """
    box = record.get("bbox")
    if box is None:
        raise FaultError("missing key", "it has no 'bbox'")
    if not isinstance(box, list) or len(box) != 4 or any(type(v) not in (int, float) for v in box):
        raise FaultError("wrong type", f"its 'bbox' is {box!r}, not four numbers [x, y, width, height]")
    if not all(map(math.isfinite, box)):
        raise FaultError("wrong type", f"its 'bbox' {box} holds a number that is not finite")
    x, y, w, h = box
    if w <= 0 or h <= 0:
        raise FaultError("zero-area box", f"its box {box} [x, y, width, height] has no area")
    if max(-x, -y, x + w - width, y + h - height) > OVERHANG:
        raise FaultError(
            "box outside the image", f"its box {box} [x, y, width, height] leaves the {width}x{height} image"
        )
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
        raise FaultError(
            "box outside the image", f"nothing of its box {box} lies in the {width}x{height} image"
        )
    return x1, y1, x2, y2
