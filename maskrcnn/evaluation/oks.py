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

from maskrcnn.errors import DataError, UserError, plural
from maskrcnn.evaluation.eval_result import TEN
from maskrcnn.structures import COCO_PERSON
from maskrcnn.structures.ground_truth import GroundTruth

#: COCO counts this many detections an image and class.
MAX_DETECTIONS = 20
#: Places of the area ranges, all, medium and large, and of the similarities 0.50 and 0.75.
_AREAS = {"": 0, "m": 1, "l": 2}
_LEVELS = {"50": slice(0, 1), "75": slice(5, 6)}


def count_keypoints(truth: GroundTruth) -> int:
    """J of the annotations.

    Raises:
        DataError: they have no keypoints.
    """
    if truth.keypoints is None or (len(truth) and not truth.keypoints.any()):
        raise DataError(f"{truth.source}: no annotation has 'keypoints'; leave them out of eval.iou_types")
    return int(truth.keypoints.shape[1]) // 3


def choose_sigmas(sigmas: Sequence[float] | None, count: int) -> npt.NDArray[np.float64] | None:
    """The sigma of each keypoint; None leaves COCO's 17 to the evaluator.

    Raises:
        UserError: there is not one for each of the ``count`` keypoints.
    """
    if sigmas is None:
        if count == len(COCO_PERSON):
            return None
        raise UserError(
            f"eval.sigmas is not set, and COCO's are for 17 keypoints, not {count}"
            " (model.keypoint_head.num_keypoints): give each keypoint the spread of its"
            " annotations (COCO: 0.025 for eyes to 0.107 for hips), as a list"
        )
    if len(sigmas) != count:
        raise UserError(
            f"eval.sigmas has {plural(len(sigmas), 'number')}, but instances have {plural(count, 'keypoint')}"
        )
    return np.array(sigmas, dtype=np.float64)


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
