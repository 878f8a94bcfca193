"""Detections as COCO result records, and result files.

A record is ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`` in the original
frame, in pixels, plus ``"segmentation"`` (compressed RLE, text counts) where the model has masks and
``"keypoints": [x, y, score, x, y, score, ...]`` where it has keypoints: in the place of COCO's flag, which no
evaluator reads, a logit, or a probability with ``model.keypoint_head.scores: probability``.  A number that a
further head gives each instance (``Detections.extras`` of shape [D]) stands under the head's name; null where
it is not finite, for JSON has no word for that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maskrcnn.data.formats.coco_json import kind_of, read_json
from maskrcnn.errors import DataError
from maskrcnn.files import write_text
from maskrcnn.inference.clean_masks import Cleaning
from maskrcnn.inference.paste import Paste, encode_masks
from maskrcnn.structures import Detections, ImageInfo, clip_boxes, large_enough, xyxy_to_xywh
from maskrcnn.structures.categories import Categories

Result = dict[str, Any]


def in_image(
    detections: Detections, network_size: tuple[int, int], image_size: tuple[int, int]
) -> Detections:
    """The detections in the original frame, without those that clipping to the image leaves without area.

    So does Detectron2 (``detector_postprocess``): such a box has a side of 0 and an empty mask.

    Args:
        detections: in the network frame.
        network_size, image_size: (height, width) of the network frame before padding, and of the image, in
            pixels.
    """
    found = detections.rescale(network_size, image_size)
    return found.select(large_enough(clip_boxes(found.boxes, *image_size), 0))


def coco_results(
    info: ImageInfo,
    detections: Detections,
    network_size: tuple[int, int],
    categories: Categories,
    paste: Paste = "aligned",
    keypoint_offset: float = 0.5,
    clean: Cleaning | None = None,
) -> list[Result]:
    """The COCO records of one image.

    Args:
        info: the image; its height and width are those of the original frame.
        detections: D detections in the network frame, labels in [0, K).
        network_size: (height, width) of the network frame before padding, in pixels.
        categories: maps class indices back to the data set's category ids.
        paste: how masks are pasted, see ``inference.paste``.
        keypoint_offset: taken off keypoints' x and y: COCO's are indices of pixels, whose centres are at
            + 0.5 (as Detectron2).
        clean: what of pasted masks is mended, see there.

    Returns:
        a record for each detection of which something lies in the image (see :func:`in_image`), in their
        order, all numbers in full precision.

    Raises:
        ValueError: a head calls a number of its own as a key of the records.
    """
    found = in_image(detections.to("cpu"), network_size, (info.height, info.width))
    if not len(found):
        return []
    boxes = xyxy_to_xywh(clip_boxes(found.boxes.double(), info.height, info.width)).tolist()
    rles = None
    if found.mask_probs is not None:
        rles = encode_masks(found.mask_probs, found.boxes, info.height, info.width, paste, clean)
    points = None
    if found.keypoints is not None:
        offset = found.keypoints.new_tensor([keypoint_offset, keypoint_offset, 0], dtype=torch.float64)
        points = (found.keypoints - offset).flatten(1).tolist()
    extras = {name: values.double().tolist() for name, values in found.extras.items() if values.ndim == 1}
    records: list[Result] = []
    for i, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True)):
        record: Result = {
            "image_id": info.image_id,
            "category_id": categories.ids[label],
            "bbox": boxes[i],
            "score": score,
        }
        if rles is not None:
            record["segmentation"] = rles[i]
        if points is not None:
            record["keypoints"] = points[i]
        if record.keys() & extras.keys():
            raise ValueError(f"a head's numbers are called as keys of a record: {sorted(extras)}")
        record |= {name: v[i] if math.isfinite(v[i]) else None for name, v in extras.items()}
        records.append(record)
    return records


def save_results(path: Path | str, results: Sequence[Result]) -> None:
    """Write a COCO results file, whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there before is as it was.
    """
    write_text(Path(path), json.dumps(list(results)))


def load_results(path: Path | str) -> list[Result]:
    """The records of a COCO results file, read by the rules that annotations are read by.

    Faulty records are told by the evaluation, which leaves them out.

    Raises:
        DataError: it is missing, not JSON, or not a list.
    """
    records = read_json(Path(path))
    if not isinstance(records, list):
        raise DataError(f"{path}: a COCO results file is a list of records, not a {kind_of(records)}")
    return records


def merge_results(per_rank: Iterable[Sequence[Result]]) -> list[Result]:
    """One list from those of several processes; the same whatever the number of processes.

    A sampler that pads the last batches may have given one image to two ranks: the records of the
    lowest rank that has any are kept.  The order is by image id, within an image as produced.
    """
    by_image: dict[int, list[Result]] = {}
    for records in per_rank:
        mine: dict[int, list[Result]] = {}
        for record in records:
            mine.setdefault(record["image_id"], []).append(record)
        for image_id, found in mine.items():
            by_image.setdefault(image_id, found)
    return [record for image_id in sorted(by_image) for record in by_image[image_id]]


def ground_truth_results(dataset: Mapping[str, Any], image_ids: Iterable[int] | None = None) -> list[Result]:
    """The ground truth as perfect predictions (score 1, no crowds): must score AP 1 in any evaluator.

    ``dataset`` is a COCO annotation file's content; segmentations are passed on as they are written.
    """
    wanted = None if image_ids is None else set(image_ids)
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [
        {key: ann[key] for key in keys if key in ann} | _keypoints(ann) | {"score": 1.0}
        for ann in dataset["annotations"]
        if not ann.get("iscrowd", 0) and (wanted is None or ann["image_id"] in wanted)
    ]


def _keypoints(annotation: Mapping[str, Any]) -> Result:
    """An annotation's keypoints; where none is labelled, all in its middle, which evaluators then ignore."""
    points = annotation.get("keypoints")
    if not points or any(points[2::3]):
        return {"keypoints": points} if points else {}
    x, y, width, height = annotation["bbox"]
    return {"keypoints": [x + width / 2, y + height / 2, 0] * (len(points) // 3)}
