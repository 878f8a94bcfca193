"""Annotation files and results, checked and completed into what the COCO evaluators expect.

pycocotools reads only well-formed files: a missing ``area`` or ``iscrowd`` is a KeyError, an annotation
id of 0 counts as "not matched", a polygon of two points is read as a box, a mask of the wrong size gives
AP 0 in silence.  Here each of these is either completed, or told in one sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from maskrcnn.errors import DataError

Record = dict[str, Any]
#: How many faulty annotations a note names before it only counts.
NAMED = 5


@dataclass(frozen=True)
class GroundTruth:
    """A COCO annotation file, completed.

    annotations: records with integer ids > 0, ``bbox``, ``area``, ``iscrowd`` and, for segm, an RLE
        ``segmentation``; only of images and categories that the file lists.
    original_ids: our annotation id -> the file's, where they had to differ.
    without_mask: our ids of annotations whose segmentation cannot be read; left out of segm.
    notes: one sentence about each kind of thing that was left out.
    """

    source: str
    images: dict[int, Record]
    categories: dict[int, str]
    annotations: list[Record]
    original_ids: dict[int, int]
    without_mask: frozenset[int]
    notes: list[str] = field(default_factory=list)


def read_ground_truth(source: Path | str | Mapping[str, Any], masks: bool) -> GroundTruth:
    """Read and complete an annotation file (or its content).

    Args:
        source: the file, or what ``json.load`` gives of it; not modified.
        masks: whether segmentations are needed.

    Raises:
        DataError: missing file, broken JSON, no images, an id that is no integer, or masks wanted and
            not one annotation has one.
    """
    name = "the annotations" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read_json(Path(source))
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        raise DataError(f"{name}: not a COCO annotation file: it has no list 'images'")
    images = {
        _integer(image.get("id"), f"{name}: image {n} of the list"): image
        for n, image in enumerate(content["images"])
    }
    records = content.get("annotations") or []
    notes: list[str] = []
    categories = _categories(content, records, name)
    kept: list[Record] = []
    strangers = 0
    for n, record in enumerate(records):
        where = f"{name}: annotation {record.get('id', f'number {n}')}"
        image_id = _integer(record.get("image_id"), f"{where}: 'image_id'")
        category_id = _integer(record.get("category_id"), f"{where}: 'category_id'")
        if image_id not in images or category_id not in categories:
            strangers += 1
            continue
        kept.append({**record, "image_id": image_id, "category_id": category_id})
    if strangers:
        notes.append(
            f"{strangers} annotations of {name} name an image or a category that it does not list; left out"
        )
    original_ids = _unique_ids(kept)
    without_mask, without_box = _complete(kept, images, masks)
    if masks and kept and len(without_mask) == len(kept):
        raise DataError(f"{name}: no annotation has a usable 'segmentation'; evaluate 'bbox' alone")
    for ids, what, which in (
        (without_mask, "segmentation", "segm"),
        (without_box, "bbox", "the evaluation"),
    ):
        if ids:
            named = ", ".join(str(original_ids.get(i, i)) for i in ids[:NAMED])
            more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
            notes.append(f"left out of {which}: annotations without a usable {what}: {named}{more}")
    usable = [record for record in kept if "bbox" in record]
    return GroundTruth(name, images, categories, usable, original_ids, frozenset(without_mask), notes)


def detection_records(
    results: Sequence[Mapping[str, Any]], iou_type: str, truth: GroundTruth, image_ids: Iterable[int]
) -> list[Record]:
    """The results that lie on ``image_ids``, completed for one kind of evaluation.

    ``area`` is the mask's for segm and the box's for bbox, so that small, medium and large mean the same
    for a detection as for the ground truth; for keypoints, as COCO has it, that of the box around them.
    A record's ``id`` is its place in ``results`` plus one.

    Raises:
        DataError: a result of an unknown image, without score, box, mask or keypoints, with a number that
            is not finite, or with a mask of another size than its image.
    """
    wanted = set(image_ids)
    unknown = sorted({r["image_id"] for r in results if r["image_id"] not in truth.images}, key=str)
    if unknown:
        raise DataError(
            f"the results name {len(unknown)} images that {truth.source} does not list (first:"
            f" {unknown[0]!r}); are they the results of another split or data set?"
        )
    out: list[Record] = []
    for number, result in enumerate(results):
        if result["image_id"] not in wanted:
            continue
        where = f"result {number} (image {result['image_id']})"
        record: Record = {
            "id": number + 1,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "score": result.get("score"),
            "iscrowd": 0,
        }
        if not isinstance(record["score"], int | float) or not math.isfinite(record["score"]):
            raise DataError(f"{where}: its score is {record['score']!r}, not a finite number")
        if iou_type == "segm":
            record["segmentation"] = _result_mask(result, truth.images[result["image_id"]], where)
            # One by one: pycocotools 2.0.11 raises an OverflowError for a list of more than 255 masks.
            record["area"] = float(coco_mask.area(record["segmentation"]))
        elif iou_type == "keypoints":
            record |= _result_keypoints(result, where)
        else:
            record["bbox"] = _result_box(result, truth.images[result["image_id"]], where)
            record["area"] = record["bbox"][2] * record["bbox"][3]
        out.append(record)
    return out


def to_rle(segmentation: Any, height: int | None, width: int | None) -> Record:
    """A COCO segmentation (polygons, compressed or uncompressed RLE) as a compressed RLE.

    Raises:
        ValueError: it is none of them, has a polygon of fewer than three points, or is made of polygons
            and the image's size in pixels is not known.
    """
    if isinstance(segmentation, Mapping):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if not (isinstance(size, list | tuple) and len(size) == 2):
            raise ValueError("a run-length mask needs 'size': [height, width]")
        if isinstance(counts, list):
            if sum(counts) != size[0] * size[1]:
                raise ValueError(f"its runs cover {sum(counts)} pixels, not {size[0]} x {size[1]}")
            return dict(coco_mask.frPyObjects({"counts": counts, "size": list(size)}, size[0], size[1]))
        if not isinstance(counts, str | bytes):
            raise ValueError("a run-length mask needs 'counts', a list or a string")
        return {"counts": counts, "size": list(size)}
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it is neither polygons nor a run-length mask")
    if any(not isinstance(p, list) or len(p) < 6 or len(p) % 2 for p in segmentation):
        raise ValueError("a polygon needs at least three points, x and y each")
    if height is None or width is None:
        raise ValueError("the image's height and width are not given")
    return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such annotation file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON file: {error}") from None


def _integer(value: Any, where: str) -> int:
    """``value`` as an id; digits in quotes count (some tools write them)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    raise DataError(f"{where}: the id is {value!r}; it must be an integer")


def _categories(content: Mapping[str, Any], records: Sequence[Record], name: str) -> dict[int, str]:
    """Category id -> name; numbers for names where the file lists no categories."""
    listed = content.get("categories")
    if not listed:
        ids = sorted({_integer(r.get("category_id"), f"{name}: an annotation's category") for r in records})
        return {i: str(i) for i in ids}
    named = {_integer(c.get("id"), f"{name}: category {n} of the list"): c for n, c in enumerate(listed)}
    return {i: str(named[i].get("name", i)) for i in sorted(named)}


def _unique_ids(records: list[Record]) -> dict[int, int]:
    """Number the annotations anew where their ids are missing, repeated or not above 0.

    pycocotools stores the id of the match, and 0 for none.
    """
    ids = [record.get("id") for record in records]
    sound = all(isinstance(i, int) and not isinstance(i, bool) and i > 0 for i in ids)
    if sound and len(set(ids)) == len(ids):
        return {}
    original: dict[int, int] = {}
    for new, record in enumerate(records, start=1):
        old = record.get("id")
        original[new] = old if isinstance(old, int) else -new
        record["id"] = new
    return original


def _complete(
    records: list[Record], images: Mapping[int, Record], masks: bool
) -> tuple[list[int], list[int]]:
    """Fill iscrowd, area, bbox and RLEs in place; ids without a usable mask, and without a usable box."""
    without_mask: list[int] = []
    without_box: list[int] = []
    for record in records:
        record["iscrowd"] = int(record.get("iscrowd") or 0)
        box = record.get("bbox")
        good_box = isinstance(box, list | tuple) and len(box) == 4 and all(map(_finite, box))
        rle = None
        if masks or not good_box:
            image = images[record["image_id"]]
            try:
                rle = to_rle(record.get("segmentation"), image.get("height"), image.get("width"))
            except ValueError:
                if masks:
                    without_mask.append(record["id"])
        if rle is not None:
            record["segmentation"] = rle
        if not good_box:
            if rle is None:
                record.pop("bbox", None)
                without_box.append(record["id"])
                continue
            record["bbox"] = [float(v) for v in coco_mask.toBbox(rle)]
        if not _finite(record.get("area")):
            sides = record["bbox"]
            record["area"] = float(coco_mask.area(rle)) if rle is not None else sides[2] * sides[3]
    return without_mask, without_box


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _result_mask(result: Mapping[str, Any], image: Record, where: str) -> Record:
    if not result.get("segmentation"):
        raise DataError(f"{where}: it has no 'segmentation'; evaluate 'bbox' alone")
    height, width = image.get("height"), image.get("width")
    try:
        rle = to_rle(result["segmentation"], height, width)
    except ValueError as error:
        raise DataError(f"{where}: its segmentation cannot be read: {error}") from None
    if height is not None and width is not None and list(rle["size"]) != [height, width]:
        raise DataError(
            f"{where}: its mask is {rle['size'][0]} x {rle['size'][1]}, its image {height} x {width}"
            " (height x width); results must be in the frame of the original image"
        )
    return rle


def _result_box(result: Mapping[str, Any], image: Record, where: str) -> list[float]:
    box = result.get("bbox")
    if not box and result.get("segmentation"):
        return [float(v) for v in coco_mask.toBbox(_result_mask(result, image, where))]
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_finite, box)):
        raise DataError(f"{where}: its bbox is {box!r}, not four finite numbers [x, y, width, height]")
    return [float(v) for v in box]


def _result_keypoints(result: Mapping[str, Any], where: str) -> Record:
    """``keypoints``, ``bbox`` and ``area`` of a result: the box is that of its keypoints, as COCO has it.

    Raises:
        DataError: the keypoints are missing or malformed.
    """
    points = result.get("keypoints")
    if not points:
        raise DataError(f"{where}: it has no 'keypoints'; leave them out of eval.iou_types")
    if not isinstance(points, list) or len(points) % 3 or not all(map(_finite, points)):
        raise DataError(f"{where}: its 'keypoints' are not a list of finite numbers x, y, v, x, y, v, ...")
    x, y = points[0::3], points[1::3]
    width, height = max(x) - min(x), max(y) - min(y)
    return {"keypoints": points, "bbox": [min(x), min(y), width, height], "area": width * height}
