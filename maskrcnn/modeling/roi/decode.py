"""From the heads' outputs to detections.  Pure functions.

Legend: N = images, R = proposals (of the batch, or in the static form of an image), D = detections of an
image, K = classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.layers import nms, nms_of_lists
from maskrcnn.modeling.box_coder import Weights, decode_boxes
from maskrcnn.modeling.roi.rois import DetectedRoIs
from maskrcnn.structures import clip_boxes
from maskrcnn.structures.padded import Proposals

#: Of an image compete across classes (``across_classes``) the best that NMS in the classes leaves, so many
#: times the room for detections.
CANDIDATES = 10


def own_class(values: Tensor, labels: Tensor) -> Tensor:
    """Every row's entry for its own class: [R, K, ...], int64 [R] -> [R, ...].  K = 1 serves all classes."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(labels.shape[0], device=labels.device), labels]


@torch.no_grad()
def select_detections(
    scores: Tensor,
    deltas: Tensor,
    rois: Tensor,
    image_sizes: Tensor,
    *,
    weights: Weights,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    min_size: float = 0.0,
    across_classes: bool = False,
) -> DetectedRoIs:
    """Score threshold, then NMS in every class, then the best over the classes (He et al. 2017, section 3.1).

    Only the pairs of RoI and class that pass the threshold are decoded.

    Args:
        scores: [R, K] in [0, 1].  deltas: [R, 4K] or [R, 4].
        rois: [R, 5], the image's index and xyxy, pixels of the network frame; those of an image together.
        image_sizes: [N, 2], height and width before padding; boxes are cut to them.
        weights: of the box coder.
        score_threshold: keep scores greater than this.
        max_detections: of an image.
        min_size: drop boxes with a side below this, pixels; 0 keeps all.
        across_classes: NMS once more, over the best of all classes together (see ``CANDIDATES``).

    Returns:
        Detections, those of an image by falling score.
    """
    row, label = (scores > score_threshold).nonzero(as_tuple=True)
    score = scores[row, label]
    per_class = deltas.view(deltas.shape[0], deltas.shape[1] // 4, 4)
    delta = per_class[row, label if per_class.shape[1] > 1 else 0]
    index, box = rois[row].split((1, 4), dim=1)
    image = index[:, 0].to(torch.int64)
    box = clip_boxes(decode_boxes(delta, box, weights), *image_sizes[image].unbind(1))
    sides = box[:, 2:] - box[:, :2]
    valid = torch.isfinite(box).all(dim=1) & (sides >= min_size).all(dim=1)
    image, box, score, label = image[valid], box[valid], score[valid], label[valid]
    counts = torch.bincount(image, minlength=image_sizes.shape[0]).tolist()
    room = max_detections * CANDIDATES if across_classes else max_detections
    keep = nms_of_lists(box, score, label, counts, nms_threshold, room)
    if across_classes:
        counts = torch.bincount(image[keep], minlength=image_sizes.shape[0]).tolist()
        every = torch.zeros_like(keep)
        keep = keep[nms_of_lists(box[keep], score[keep], every, counts, nms_threshold, max_detections)]
    found = torch.cat((image[:, None].to(box.dtype), box), dim=1)
    return DetectedRoIs(found[keep], label[keep], None, score[keep])


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
    across_classes: bool = False,
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
    room = max_detections * CANDIDATES if across_classes else max_detections
    kept, number = nms(of_class, score, real, nms_threshold, min(room, rows))
    real = torch.arange(kept.shape[1], device=kept.device) < number[:, None]
    score = torch.where(real, score.gather(1, kept), -torch.inf).view(images, -1)
    box = of_class.gather(1, kept[..., None].expand(-1, -1, 4)).view(images, -1, 4)
    label = (
        torch.arange(classes, device=kept.device)[:, None]
        .expand(-1, kept.shape[1])
        .flatten()
        .expand(images, -1)
    )
    # By falling score, equal ones by proposal and then by class.
    order = (kept.view(images, -1) * classes + label).argsort(dim=1)
    order = order.gather(1, score.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    order = order[:, :room]
    score, label = score.gather(1, order), label.gather(1, order)
    box = box.gather(1, order[..., None].expand(-1, -1, 4))
    if across_classes:
        kept, number = nms(box, score, score > -torch.inf, nms_threshold, min(max_detections, order.shape[1]))
        label, box = label.gather(1, kept), box.gather(1, kept[..., None].expand(-1, -1, 4))
        real = torch.arange(kept.shape[1], device=kept.device) < number[:, None]
        score = torch.where(real, score.gather(1, kept), -torch.inf)
    image = torch.arange(images, device=kept.device)[:, None, None].expand(-1, score.shape[1], 1)
    rois = torch.cat((image.to(box.dtype), box), dim=2).flatten(0, 1)
    real = (score > -torch.inf).flatten()
    score = torch.where(real, score.flatten(), 0)
    return DetectedRoIs(rois, label.flatten(), torch.ones_like(real), score).where(real)
