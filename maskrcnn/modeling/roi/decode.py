"""From the heads' outputs to detections.  Pure functions.

Legend: R = proposals of an image, D = its detections, K = classes, M = mask side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.layers import batched_nms
from maskrcnn.modeling.box_coder import Weights, decode_boxes
from maskrcnn.structures import Detections, clip_boxes


def own_class(values: Tensor, labels: Tensor) -> Tensor:
    """Every row's entry for its own class: [R, K, ...], int64 [R] -> [R, ...].  K = 1 serves all classes."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(labels.shape[0], device=labels.device), labels]


@torch.no_grad()
def select_detections(
    scores: Tensor,
    deltas: Tensor,
    proposals: Tensor,
    image_size: tuple[int, int],
    *,
    weights: Weights,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    min_size: float = 0.0,
) -> Detections:
    """Score threshold, then NMS in every class, then the best over the classes (He et al. 2017, section 3.1).

    Only the pairs of proposal and class that pass the threshold are decoded.

    Args:
        scores: [R, K] in [0, 1].  deltas: [R, 4K] or [R, 4].
        proposals: [R, 4] xyxy, pixels of the network frame.
        image_size: (height, width) before padding; boxes are cut to it.
        weights: of the box coder.
        score_threshold: keep scores greater than this.
        min_size: drop boxes with a side below this, pixels; 0 keeps all.

    Returns:
        Detections by falling score, no masks.
    """
    row, label = (scores > score_threshold).nonzero(as_tuple=True)
    score = scores[row, label]
    per_class = deltas.view(deltas.shape[0], deltas.shape[1] // 4, 4)
    delta = per_class[row, label if per_class.shape[1] > 1 else 0]
    boxes = clip_boxes(decode_boxes(delta, proposals[row], weights), *image_size)
    sides = boxes[:, 2:] - boxes[:, :2]
    valid = torch.isfinite(boxes).all(dim=1) & (sides >= min_size).all(dim=1)
    boxes, score, label = boxes[valid], score[valid], label[valid]
    keep = batched_nms(boxes, score, label, nms_threshold)[:max_detections]
    return Detections(boxes[keep], score[keep], label[keep])
