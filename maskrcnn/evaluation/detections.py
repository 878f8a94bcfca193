"""COCO result records as columns, checked: what is unusable is left out, counted and named.

Records that are sound are proven so a column at a time; only where something is odd are they looked at one
by one, by the rules that annotations are read by (:mod:`maskrcnn.data.formats.checks`).

Legend: D = detections that take part, J = keypoints an instance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.fault_report import FaultError, FaultReport
from maskrcnn.data.formats.checks import as_float, check_mask, is_no_mask, is_number
from maskrcnn.data.formats.coco_json import as_id, brief, id_trouble, kind_of
from maskrcnn.data.formats.plain import ODD, column, require, require_types, rows
from maskrcnn.errors import DataError, plural
from maskrcnn.structures import rle
from maskrcnn.structures.ground_truth import GroundTruth

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DetectionColumns:
    """Detections in the order of the results, original frame, pixels.

    records: int64 [D], place in the list of results.
    images: int64 [D], place among the truth's images.
    categories: int64 [D], category ids, known or not.
    scores: float64 [D].
    boxes: float64 [D, 4], x, y, width, height; None where they were not asked for.
    masks: D compressed RLEs (their counts all bytes or all text); None likewise.
    mask_areas: int64 [D], pixels; None likewise.
    keypoints: float64 [D, 3 J]; None likewise.
    notes: what was left out, a sentence each.
    """

    records: Integers
    images: Integers
    categories: Integers
    scores: Floats
    boxes: Floats | None = None
    masks: list[rle.RLE] | None = None
    mask_areas: Integers | None = None
    keypoints: Floats | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)


def read_detections(
    results: Sequence[Mapping[str, Any]],
    truth: GroundTruth,
    kinds: Collection[str],
    images: Collection[int],
    joints: int = 0,
) -> DetectionColumns:
    """The results on some images, for some kinds of evaluation.

    Args:
        results: COCO result records, as a file has them or as a model made them.
        truth: what they are compared with.
        kinds: of bbox, segm and keypoints, what each result must have.
        images: ids of the images that take part.
        joints: J of the truth, with keypoints.

    Raises:
        DataError: not one record is usable though there are some.
    """
    places = np.full(len(truth.image_ids), -1, dtype=np.int64)
    wanted = np.array([truth.image_places[i] for i in images], dtype=np.int64)
    places[wanted] = wanted
    try:
        return _plain(results, truth, kinds, places, joints)
    except ODD:
        return _one_by_one(results, truth, kinds, places, joints)


def _plain(
    results: Sequence[Mapping[str, Any]],
    truth: GroundTruth,
    kinds: Collection[str],
    places: Integers,
    joints: int,
) -> DetectionColumns:
    """Columns of results that are sound throughout, and in their plainest form.

    Raises:
        those of ``ODD``: they are not.
    """
    images = column([r["image_id"] for r in results], [int], np.int64)
    categories = column([r["category_id"] for r in results], [int], np.int64)
    scores = column([r["score"] for r in results], [float, int], np.float64)
    at = np.searchsorted(truth.image_ids, images)
    known = at < len(truth.image_ids)
    require(known.all() and (truth.image_ids[at] == images).all() and np.isfinite(scores).all())
    at = places[at]
    keep = np.flatnonzero(at >= 0)
    chosen = results if len(keep) == len(results) else [results[i] for i in keep.tolist()]
    at = at[keep]
    boxes = points = masks = pixels = None
    if "bbox" in kinds:
        boxes = rows([r["bbox"] for r in chosen], 4)
        require((boxes[:, 2:] >= 0).all() and (np.abs(boxes) < 1e9).all())
    if "segm" in kinds:
        masks = [r["segmentation"] for r in chosen]
        require_types(masks, dict)
        sizes, given = truth.sizes.tolist(), [m["size"] for m in masks]
        require(given == [sizes[i] for i in at.tolist()])
        require_types(chain.from_iterable(given), int)
        codes = [m["counts"] for m in masks]
        require(set(map(type, codes)) in ({str}, {bytes}, set()))
        pixels = rle.areas(codes, truth.sizes[at].prod(axis=1))
        require(pixels is not None)
    if "keypoints" in kinds:
        points = rows([r["keypoints"] for r in chosen], 3 * joints)
        require((np.abs(points) < 1e9).all())
    return DetectionColumns(keep, at, categories[keep], scores[keep], boxes, masks, pixels, points)


def _one_by_one(
    results: Sequence[Any], truth: GroundTruth, kinds: Collection[str], places: Integers, joints: int
) -> DetectionColumns:
    report = FaultReport("the results", None)
    rows: list[tuple[Any, ...]] = []
    strangers = 0
    for number, result in enumerate(map(_as_json, results)):
        mended: list[str] = []
        where = f"result {number}"
        try:
            at, category, score = _head(result, truth)
            if at is None or places[at] < 0:  # None: of an image that was left out for its own fault
                continue
            where += f" (image {truth.image_ids[at]})"
            height, width = truth.sizes[at].tolist()
            mask = None
            if "segm" in kinds or ("bbox" in kinds and not result.get("bbox")):
                mask = _mask(result, height, width, mended)
            box = _box(result, mask, height, width, mended) if "bbox" in kinds else []
            joint = _keypoints(result, joints) if "keypoints" in kinds else []
        except FaultError as fault:
            strangers += fault.kind == "of an unknown image"
            report.annotation(fault.kind, f"{where}: {fault}")
            continue
        rows.append((number, at, category, score, box, mask, joint))
        for what in mended:
            report.mend(what, where)
    faulty = report.annotations.total()
    if faulty and not rows:
        if strangers == faulty:
            listed = ", ".join(map(str, truth.image_ids[:5].tolist()))
            raise DataError(
                f"the results name no image that {truth.source} lists ({report.named[0]}; it lists {listed},"
                " ...); are they the results of another split or data set?"
            )
        raise DataError(f"none of {plural(faulty, 'result')} can be used: {report.named[0]}")
    records, images, categories, scores, boxes, masks, points = zip(*rows, strict=True) if rows else [()] * 7
    pixels = [rle.area(m) for m in masks if m is not None]
    return DetectionColumns(
        np.array(records, dtype=np.int64),
        np.array(images, dtype=np.int64),
        np.array(categories, dtype=np.int64),
        np.array(scores, dtype=np.float64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4) if "bbox" in kinds else None,
        list(masks) if "segm" in kinds else None,
        np.array(pixels, dtype=np.int64) if "segm" in kinds else None,
        np.array(points, dtype=np.float64).reshape(-1, 3 * joints) if "keypoints" in kinds else None,
        report.notes("result"),
    )


def _as_json(result: Any) -> Any:
    """A record without numpy's arrays and numbers, which programs give where files have lists and numbers."""
    if not isinstance(result, Mapping):
        return result
    return {key: _as_lists(value) for key, value in result.items()}


def _as_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list) and any(isinstance(v, np.ndarray | np.generic) for v in value):
        return list(map(_as_lists, value))
    return value


def _head(result: Any, truth: GroundTruth) -> tuple[int | None, int, float]:
    """Place of the image (None: one whose record is faulty), category id and score.

    Raises:
        FaultError: one of them is missing or unusable.
    """
    if not isinstance(result, Mapping):
        raise FaultError("no record", f"it is a {kind_of(result)}, not an object")
    found = []
    for key in ("image_id", "category_id"):
        value = as_id(result.get(key))
        if value is None:
            raise FaultError(f"no sound {key}", id_trouble(key, result))
        found.append(value)
    score = result.get("score")
    if not is_number(score) or not np.isfinite(as_float(score)):  # type: ignore[arg-type]
        raise FaultError("no sound score", f"its score is {brief(score)}, not a finite number")
    at = truth.image_places.get(found[0])
    if at is None and found[0] not in truth.dropped_images:
        raise FaultError("of an unknown image", f"{truth.source} does not list the image {found[0]}")
    return at, found[1], as_float(score)  # type: ignore[arg-type]


def _mask(result: Mapping[str, Any], height: int, width: int, mended: list[str]) -> rle.RLE:
    if is_no_mask(result.get("segmentation")):
        missing = "segmentation" if result.get("bbox") else "bbox', nor a 'segmentation"
        raise FaultError("no mask", f"it has no '{missing}'; evaluate what the results have (eval.iou_types)")
    try:
        return check_mask(result, height, width, mended).encode(height, width)
    except FaultError as fault:
        raise FaultError(
            fault.kind, f"{fault} (results must be in the frame of the original image)"
        ) from None


def _box(
    result: Mapping[str, Any], mask: rle.RLE | None, height: int, width: int, mended: list[str]
) -> list[float]:
    box = result.get("bbox")
    if not box and mask is not None:
        mended.append("box taken from the mask")
        return list(rle.box(mask))
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)):
        raise FaultError("no sound box", f"its bbox is {brief(box)}, not four numbers [x, y, width, height]")
    values = list(map(as_float, box))
    shown = f"[{', '.join(f'{v:g}' for v in values)}]"
    if not all(abs(v) < 1e9 for v in values):
        raise FaultError("no sound box", f"its bbox {shown} holds a number that is not finite, or far away")
    if values[2] < 0 or values[3] < 0:
        raise FaultError("no sound box", f"its bbox {shown} has a negative side")
    return values


def _keypoints(result: Mapping[str, Any], joints: int) -> list[float]:
    points = result.get("keypoints")
    if not points:
        raise FaultError("no keypoints", "it has no 'keypoints'; leave them out of eval.iou_types")
    if not isinstance(points, list) or not all(map(is_number, points)):
        raise FaultError("broken keypoints", "its 'keypoints' are not a list of numbers x, y, v, x, ...")
    if len(points) != 3 * joints:
        raise FaultError(
            "broken keypoints", f"it has {len(points) / 3:g} keypoints, the annotations have {joints}"
        )
    values = list(map(as_float, points))
    if not all(abs(v) < 1e9 for v in values):
        raise FaultError("broken keypoints", "its 'keypoints' hold a number that is not finite, or far away")
    return values
