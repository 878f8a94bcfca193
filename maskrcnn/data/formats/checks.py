"""What an annotation of a COCO json must fulfil to be used, and what is put right where its meaning is plain.

One set of rules for all who read annotations: what training leaves out, evaluation leaves out, and nothing
that has not passed here reaches native code.

Legend: J = keypoints an instance.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.formats.coco_json import as_id, brief, id_trouble, kind_of
from maskrcnn.errors import plural
from maskrcnn.structures import rle

#: A box may reach this many pixels over the image's edge without a word (COCO's own do); evaluation takes
#: it as it is, training clipped.
OVERHANG = 1.0
#: Longest outline of a mask's polygons in pixels: drawing takes memory in proportion (some 300 MB for this).
MOST_OUTLINE = 4_000_000
_FLAGS = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1}

Box = tuple[float, float, float, float]


@dataclass
class Mask:
    """An annotation's mask, checked: polygons (flat x, y in pixels), or the compressed counts of an RLE."""

    polygons: list[array[float]] = field(default_factory=list)
    counts: bytes | None = None

    def encode(self, height: int, width: int) -> rle.RLE:
        """As an RLE of the image."""
        if self.counts is not None:
            return {"size": [height, width], "counts": self.counts}
        return rle.from_polygons([np.frombuffer(p) for p in self.polygons], height, width)


@dataclass
class Ids:
    """An annotation's ids and flag: ``annotation`` is None where the file gives none that can be used."""

    annotation: int | None
    image: int
    category: int
    crowd: bool


def check_ids(record: Any, mended: list[str]) -> Ids:
    """An annotation's ids and flag.

    mended: takes what was put right.

    Raises:
        FaultError: the image's or the category's is missing or none, or the flag is none.
    """
    if not isinstance(record, Mapping):
        raise FaultError("no record", f"it is a {kind_of(record)}, not an object")
    found = {}
    for key in ("image_id", "category_id"):
        value = as_id(record.get(key))
        if value is None:
            raise FaultError("missing key" if key not in record else "wrong type", id_trouble(key, record))
        if type(record[key]) is str:
            mended.append(f"{key} given as text")
        found[key] = value
    flag = record.get("iscrowd", 0)
    if flag is None or (isinstance(flag, str) and flag.strip().lower() in _FLAGS):
        mended.append("iscrowd null or text")
        flag = _FLAGS[(flag or "").strip().lower()]
    if isinstance(flag, list | dict | str) or flag not in (0, 1):
        raise FaultError("wrong type", f"its 'iscrowd' is {brief(flag)}, not 0 or 1")
    return Ids(as_id(record.get("id")), found["image_id"], found["category_id"], bool(flag))


def check_mask(record: Mapping[str, Any], height: int, width: int, mended: list[str]) -> Mask:
    """The mask of an annotation.

    Of several polygons the sound ones are kept.

    Raises:
        FaultError: there is no segmentation, or nothing of it is sound.
    """
    segmentation = record.get("segmentation")
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], Mapping):
        mended.append("RLE in brackets of its own")
        segmentation = segmentation[0]
    if isinstance(segmentation, Mapping) and segmentation:
        return Mask(counts=_check_rle(segmentation, height, width, mended))
    if is_no_mask(segmentation):
        raise FaultError(
            "no mask",
            "it has no 'segmentation' (for a data set of boxes alone set masks: false on it, and"
            " model.mask_head: null)",
        )
    if not isinstance(segmentation, list):
        raise FaultError("wrong type", f"its 'segmentation' is a {kind_of(segmentation)}")
    if height * width >= rle.MOST_PIXELS:
        raise FaultError(
            "image too large for masks",
            f"its image has {height * width} pixels, masks can be drawn below {rle.MOST_PIXELS}; cut the"
            " image",
        )
    segmentation = _as_flat_polygons(segmentation, mended)
    sound: list[array[float]] = []
    fault: FaultError | None = None
    for part in segmentation:
        try:
            sound.append(_check_polygon(part, height, width))
        except FaultError as error:
            fault = fault or error
    if not sound:
        assert fault is not None
        raise fault
    outline = 3.0 * max(height, width) * sum(map(len, sound)) / 2  # at most: no side is longer
    if outline > MOST_OUTLINE and (outline := sum(map(_outline, sound))) > MOST_OUTLINE:
        raise FaultError(
            "endless polygon", f"its outline is {outline:.3g} px long, at most {MOST_OUTLINE} can be drawn"
        )
    if fault is not None:
        mended.append(f"stray part of a mask left out ({fault.kind})")
    return Mask(sound)


def is_no_mask(segmentation: Any) -> bool:
    """Whether a record says by its 'segmentation' that it has none: nothing, or polygons of no points."""
    if segmentation is None or isinstance(segmentation, str | Mapping):
        return not segmentation
    return isinstance(segmentation, list) and all(isinstance(p, list | array) and not p for p in segmentation)


def _as_flat_polygons(segmentation: list[Any], mended: list[str]) -> list[Any]:
    """The polygons in COCO's form, ``[[x, y, x, y, ...], ...]``, where they plainly mean it.

    mended: takes what was put right.
    """
    if all(map(is_number, segmentation)):
        mended.append("polygon without its own brackets (write [[x, y, ...]])")
        return [segmentation]
    pairs = [segmentation] if _is_pairs(segmentation) else segmentation
    flat = [[v for pair in part for v in pair] if _is_pairs(part) else part for part in pairs]
    if any(map(_is_pairs, pairs)):
        mended.append("polygon of points in brackets (write [[x, y, x, y, ...]])")
    return flat


def _is_pairs(part: Any) -> bool:
    """Whether a polygon is written ``[[x, y], [x, y], ...]``."""
    return (
        isinstance(part, list)
        and len(part) >= 3
        and all(isinstance(point, list | array) and len(point) == 2 for point in part)
    )


def _check_rle(entry: Mapping[str, Any], height: int, width: int, mended: list[str]) -> bytes:
    try:
        counts: bytes = rle.normalise(entry, height, width)["counts"]
    except ValueError as error:
        raise FaultError("broken RLE", str(error)) from None
    if isinstance(entry["counts"], str) and len(entry["counts"]) != len(counts):
        mended.append("RLE counts that are the text of bytes (b'...')")
    return counts


def _check_polygon(part: Any, height: int, width: int) -> array[float]:
    """One polygon as flat float64 x, y.

    Raises:
        FaultError: it is none, or reaches far outside the image.
    """
    if isinstance(part, list | array):
        with contextlib.suppress(TypeError, OverflowError):  # then it is told below
            part = array("d", part)
    if not isinstance(part, array) or not (math.isfinite(sum(part)) or all(map(math.isfinite, part))):
        raise FaultError("wrong type", "a polygon in its 'segmentation' is not a list of finite numbers")
    if len(part) % 2:
        raise FaultError("broken polygon", f"a polygon has {plural(len(part), 'number')}, not (x, y) pairs")
    if len(part) < 6:
        raise FaultError(
            "polygon of fewer than 3 points",
            f"a polygon has only {plural(len(part) // 2, 'point')}, at least 3 are needed",
        )
    for values, length, axis in ((part[::2], width, "x"), (part[1::2], height, "y")):
        low, high = min(values), max(values)
        if low < -length - 1 or high > 2 * length + 1:  # drawing it would take the memory of its extent
            raise FaultError(
                "polygon outside the image",
                f"a polygon has a point at {axis} = {high if high > 2 * length + 1 else low:g}, more than an"
                f" image's length outside the image's {length} px",
            )
    return part


def _outline(polygon: array[float]) -> float:
    """Length in pixels along the longer axis of each side, as it is drawn."""
    points = np.frombuffer(polygon).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def check_keypoints(record: Mapping[str, Any], count: int) -> list[float]:
    """J times x, y, v as the annotation has them; zeros where it has none.

    Raises:
        FaultError: they are malformed.
    """
    values = record.get("keypoints")
    if values is None or values in ([], 0, "", {}):
        return [0.0] * (3 * count)
    if not isinstance(values, list) or not all(map(is_number, values)):
        raise FaultError("wrong type", "its 'keypoints' are not a list of numbers")
    if len(values) != 3 * count:
        raise FaultError(
            "broken keypoints",
            f"its 'keypoints' are {plural(len(values), 'number')}, not x, y, v of"
            f" {plural(count, 'keypoint')}",
        )
    numbers = list(map(as_float, values))
    if not all(abs(v) < 1e9 for v in numbers):
        raise FaultError("broken keypoints", "its 'keypoints' hold a number that is not finite, or far away")
    if not all(v in (0, 1, 2) for v in numbers[2::3]):
        raise FaultError("broken keypoints", "a flag v among its 'keypoints' is not 0, 1 or 2")
    return numbers


def check_box(
    record: Mapping[str, Any], height: int, width: int, mask: Mask | None, mended: list[str]
) -> Box:
    """The annotation's box: x, y, width, height in pixels.

    One that is missing or unusable is taken from the mask; one that leaves the image is clipped.

    Raises:
        FaultError: it is missing, malformed, without area or outside the image, and there is no mask.
    """
    try:
        return _check_box(record, height, width, mended)
    except FaultError as fault:
        if mask is None:
            raise
        box = rle.box(mask.encode(height, width))
        if box[2] <= 0 or box[3] <= 0:
            if fault.kind == "no box":
                raise FaultError(fault.kind, "it has no 'bbox', and its mask covers no pixel") from None
            raise
        mended.append(f"box taken from the mask ({fault.kind})")
        return box


def _check_box(record: Mapping[str, Any], height: int, width: int, mended: list[str]) -> Box:
    box = record.get("bbox")
    if box is None:
        raise FaultError("no box", "it has no 'bbox', nor a mask to take it from")
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)):
        raise FaultError("wrong type", f"its 'bbox' is {brief(box)}, not four numbers [x, y, width, height]")
    x, y, w, h = map(as_float, box)
    shown = f"[{x:g}, {y:g}, {w:g}, {h:g}]"
    if not all(abs(v) < 1e9 for v in (x, y, w, h)):
        raise FaultError("wrong type", f"its 'bbox' {shown} holds a number that is not finite, or far away")
    if w <= 0 or h <= 0:
        raise FaultError("zero-area box", f"its box {shown} [x, y, width, height] has no area")
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if x2 <= x1 or y2 <= y1:
        raise FaultError(
            "box outside the image", f"nothing of its box {shown} lies in the {width}x{height} image"
        )
    if not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
        raise FaultError(
            "zero-area box",
            f"its box {shown} [x, y, width, height], as far as it lies in the {width}x{height} image, is too"
            " small to have an area in float32",
        )
    if max(-x, -y, x + w - width, y + h - height) > OVERHANG:
        mended.append("box over the image's edge clipped")
        return x1, y1, x2 - x1, y2 - y1
    return x, y, w, h


def check_area(record: Mapping[str, Any], mended: list[str]) -> float:
    """The area that the annotation states, in pixels; NaN where it states none that can be.

    mended: takes that it states one that cannot be.
    """
    area = record.get("area")
    if area is None:
        return math.nan
    value = as_float(area) if is_number(area) else math.nan
    if 0 <= value < 1e18:
        return value
    mended.append("area that is no number >= 0, taken from the mask or the box")
    return math.nan


def is_number(value: object) -> bool:
    """Whether json calls it a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_float(value: float) -> float:
    """A json number as a float; infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
