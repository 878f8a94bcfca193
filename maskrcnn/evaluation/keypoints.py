"""COCO's evaluation of keypoints by object keypoint similarity (cocodataset.org/#keypoints-eval).

Every labelled keypoint counts exp(-d^2 / (8 sigma^2 area)), d its distance in pixels; their mean is the
similarity that takes the place of the IoU.

Legend: J = keypoints an instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.errors import DataError, UserError
from maskrcnn.evaluation.coco_input import GroundTruth, Record
from maskrcnn.evaluation.eval_result import TEN
from maskrcnn.structures import COCO_PERSON

#: COCO counts this many detections an image and class.
MAX_DETECTIONS = 20
#: Places of the area ranges, all, medium and large, and of the similarities 0.50 and 0.75.
_AREAS = {"": 0, "m": 1, "l": 2}
_LEVELS = {"50": slice(0, 1), "75": slice(5, 6)}


def count_keypoints(truth: GroundTruth) -> int:
    """J of the annotations.

    Raises:
        DataError: they have no keypoints, or not all the same number.
    """
    lengths = {len(a["keypoints"]) for a in truth.annotations if a.get("keypoints")}
    if not lengths:
        raise DataError(f"{truth.source}: no annotation has 'keypoints'; leave them out of eval.iou_types")
    if len(lengths) > 1 or min(lengths) % 3:
        found = ", ".join(str(n) for n in sorted(lengths))
        raise DataError(
            f"{truth.source}: all 'keypoints' must be x, y, v of the same ones; their lengths are {found}"
        )
    return lengths.pop() // 3


def choose_sigmas(sigmas: Sequence[float] | None, count: int) -> npt.NDArray[np.float64] | None:
    """The sigma of each keypoint; None leaves COCO's 17 to the evaluator.

    Raises:
        UserError: there is not one for each of the ``count`` keypoints.
    """
    if sigmas is None:
        if count == len(COCO_PERSON):
            return None
        raise UserError(
            f"eval.sigmas is not set, and COCO's are for 17 keypoints, not {count}: give each keypoint the"
            " spread of its annotations (COCO: 0.025 for eyes to 0.107 for hips), as a list"
        )
    if len(sigmas) != count:
        raise UserError(f"eval.sigmas has {len(sigmas)} numbers, but instances have {count} keypoints")
    return np.array(sigmas, dtype=np.float64)


def complete_truth(annotations: Sequence[Record], count: int) -> list[Record]:
    """The annotations with ``keypoints`` and ``num_keypoints``; one without any is ignored in matching."""
    out = []
    for annotation in annotations:
        points = annotation.get("keypoints") or [0] * (3 * count)
        labelled = annotation.get("num_keypoints")
        if not isinstance(labelled, int):
            labelled = sum(v > 0 for v in points[2::3])
        out.append({**annotation, "keypoints": points, "num_keypoints": labelled})
    return out


def check_counts(detections: Sequence[Record], count: int) -> None:
    """
    Raises:
        DataError: a detection has another number of keypoints than the annotations.
    """
    for record in detections:
        if len(record["keypoints"]) != 3 * count:
            raise DataError(
                f"result {record['id'] - 1} (image {record['image_id']}): it has"
                f" {len(record['keypoints']) // 3} keypoints, the annotations have {count}"
            )


def keypoint_figures(found: Mapping[str, Any], classes: slice = slice(None)) -> dict[str, float | None]:
    """COCO's ten, of some classes, from an evaluator's ``precision`` and ``recall``."""
    precision, recall = np.asarray(found["precision"])[..., 0], np.asarray(found["recall"])[..., 0]
    out: dict[str, float | None] = {}
    for name in TEN:
        level = _LEVELS.get(name[2:], slice(None))
        area = _AREAS.get(name[2:], 0)
        chosen = precision[level, :, classes, area] if name[1] == "P" else recall[level, classes, area]
        defined = chosen[chosen > -1]
        out[name] = float(np.mean(defined)) if defined.size else None
    return out
