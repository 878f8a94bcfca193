"""From the heads' outputs to detections.  Pure functions.

Legend: N = images, R = proposals of an image, D = its detections, K = classes, M = mask side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.layers import batched_nms, nms
from maskrcnn.modeling.box_coder import Weights, decode_boxes
from maskrcnn.modeling.roi.rois import DetectedRoIs
from maskrcnn.structures import Detections, clip_boxes
from maskrcnn.structures.padded import Proposals


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
    image_size: Sequence[float] | Tensor,
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
        image_size: [2], height and width before padding; boxes are cut to it.
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


@torch.no_grad()
def select_in_fixed_shape(
    scores: Tensor,
    deltas: Tensor,
    proposals: Proposals,
    image_sizes: Tensor,
    *,
    weights: Weights,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    min_size: float = 0.0,
) -> DetectedRoIs:
    """:func:`select_detections` of every image, in room for D = ``max_detections`` of each: N * D rows.

    All pairs of proposal and class are decoded, and NMS is one call for all images and classes.

    Args:
        scores: [N, R, K].  deltas: [N, R, 4K] or [N, R, 4].
        image_sizes: [N, 2].
    """
    images, rows, classes = scores.shape
    height, width = image_sizes[:, 0, None, None], image_sizes[:, 1, None, None]
    boxes = decode_boxes(deltas.view(images * rows, -1, 4), proposals.boxes.flatten(0, 1), weights)
    boxes = clip_boxes(boxes.view(images, rows, -1, 4), height, width)
    sides = boxes[..., 2:] - boxes[..., :2]
    valid = torch.isfinite(boxes).all(dim=-1) & (sides >= min_size).all(dim=-1)
    valid = valid & proposals.real[..., None] & (scores > score_threshold)
    # A row of NMS has the proposals as one class of an image.
    of_class = boxes.transpose(1, 2).expand(-1, classes, -1, -1).reshape(-1, rows, 4)
    score = scores.transpose(1, 2).reshape(-1, rows)
    real = valid.transpose(1, 2).reshape(-1, rows)
    kept, number = nms(of_class, score, real, nms_threshold, min(max_detections, rows))
    real = torch.arange(kept.shape[1], device=kept.device) < number[:, None]
    score = torch.where(real, score.gather(1, kept), -torch.inf).view(images, -1)
    box = of_class.gather(1, kept[..., None].expand(-1, -1, 4)).view(images, -1, 4)
    label = torch.arange(classes, device=kept.device).repeat_interleave(kept.shape[1]).expand(images, -1)
    # By falling score, equal ones by proposal and then by class.
    order = (kept.view(images, -1) * classes + label).argsort(dim=1)
    order = order.gather(1, score.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    order = order[:, :max_detections]
    score, label = score.gather(1, order), label.gather(1, order)
    box = box.gather(1, order[..., None].expand(-1, -1, 4))
    image = torch.arange(images, device=kept.device)[:, None, None].expand(-1, order.shape[1], 1)
    rois = torch.cat((image.to(box.dtype), box), dim=2).flatten(0, 1)
    real = (score > -torch.inf).flatten()
    score = torch.where(real, score.flatten(), 0)
    return DetectedRoIs(rois, label.flatten(), torch.ones_like(real), score).where(real)
