"""Keypoints in pictures: a line a bone, a dot a joint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from maskrcnn.inference.records import Result
from maskrcnn.structures.keypoints import known_skeleton
from maskrcnn.viz.labels import Image
from maskrcnn.viz.palette import Colour, ink

#: Predicted keypoints are drawn where their score is above this: a logit (Detectron's kp_thresh), or a
#: probability (Detectron2's visualizer).
SURE = {"logit": 2.0, "probability": 0.05}
#: Fixed-point bits of the coordinates given to OpenCV.
_SHIFT = 4


def sure(keypoints: npt.NDArray[Any] | Tensor, scores: str = "logit") -> npt.NDArray[np.float64]:
    """Predicted keypoints [D, J, 3] with 0 or 1 in place of their scores, as :func:`draw_skeleton` wants.

    scores: what they are, a key of ``SURE`` (``model.keypoint_head.scores``).
    """
    out = np.asarray(keypoints).astype(np.float64)
    out[..., 2] = out[..., 2] > SURE[scores]
    return out


def of_records(records: Sequence[Result], offset: float) -> npt.NDArray[np.float64] | None:
    """The keypoints of result records, [D, J, 3] (x, y, score), continuous; None where they have none.

    offset: what was taken off when they were written, see :func:`maskrcnn.inference.records.coco_results`.
    """
    if not records or any("keypoints" not in r for r in records):
        return None
    points = np.array([r["keypoints"] for r in records], dtype=np.float64).reshape(len(records), -1, 3)
    points[..., :2] += offset
    return points


def draw_skeleton(
    canvas: Image,
    keypoints: npt.NDArray[Any],
    skeleton: Sequence[tuple[int, int]] | None,
    colour: Colour,
    thickness: int,
    factor: int = 1,
) -> None:
    """Draw one instance onto ``canvas`` [k * H, k * W, 3], in place.

    Args:
        keypoints: [J, 3] x, y in pixels of the [H, W] image, and what is above 0 where they are to be seen.
        skeleton: pairs of places in [0, J); None: COCO's for 17 keypoints, else none.
        factor: k.
    """
    # OpenCV's coordinate i is the centre of pixel i.
    at = np.rint((keypoints[:, :2] * factor - 0.5) * (1 << _SHIFT)).astype(int).tolist()
    seen = (keypoints[:, 2] > 0).tolist()
    for a, b in known_skeleton(len(at)) if skeleton is None else skeleton:
        if seen[a] and seen[b]:
            cv2.line(canvas, at[a], at[b], colour, thickness + 1, cv2.LINE_AA, _SHIFT)
    for place, visible in zip(at, seen, strict=True):
        if visible:
            radius = (thickness + 2) << _SHIFT
            cv2.circle(canvas, place, radius, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
            cv2.circle(canvas, place, radius, ink(colour), 1, cv2.LINE_AA, _SHIFT)
