"""Loss terms shared by the RPN and the RoI heads.  Pure functions.

Legend: M = boxes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from maskrcnn.modeling.box_coder import Weights, decode_boxes, encode_boxes
from maskrcnn.structures import box_area

BoxLoss = Literal["smooth_l1", "giou"]


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """``0.5 d^2 / beta`` where ``d = |prediction - target| < beta``, else ``d - 0.5 beta``: [...] -> [...].

    Girshick 2015, Fast R-CNN, eq. 3, with the width of its quadratic part made explicit; beta 0 is L1.
    """
    distance = (prediction - target).abs()
    if beta < 1e-5:  # d^2 / beta would be inf or NaN; the limit is L1
        return distance
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def giou_loss(boxes: Tensor, truth: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - GIoU`` of each pair, from 0 (the same box) to 2 (Rezatofighi et al. 2019, algorithm 1).

    Args:
        boxes, truth: [M, 4] xyxy, sides >= 0; a pair of empty boxes gives 1 where they coincide.
        eps: keeps both quotients finite, square pixels (the constant of Detectron2 and torchvision).

    Returns:
        [M].
    """
    low, high = torch.min(boxes, truth), torch.max(boxes, truth)
    intersection = box_area(torch.cat((high[:, :2], low[:, 2:]), dim=1))
    hull = box_area(torch.cat((low[:, :2], high[:, 2:]), dim=1))
    union = box_area(boxes) + box_area(truth) - intersection
    return 1 - intersection / (union + eps) + (hull - union) / (hull + eps)


def box_regression_loss(
    deltas: Tensor,
    reference: Tensor,
    truth: Tensor,
    normalizer: float,
    *,
    kind: BoxLoss = "smooth_l1",
    beta: float = 0.0,
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Smooth L1 of the positives' deltas, or GIoU of their decoded boxes: summed, over ``normalizer``.

    Args:
        deltas: [M, 4], predicted.
        reference: [M, 4] xyxy pixels, the anchors or proposals that they move.
        truth: [M, 4] xyxy pixels, where to.
        normalizer: all sampled boxes, so that positives and negatives weigh the same whatever their mix
            (Girshick 2015, eq. 1-3); the same for both kinds, as in Detectron2.
        beta: of smooth L1; 0 = L1.  weights: of the box coder.

    Returns:
        A scalar in the boxes' dtype; 0, with a gradient of 0, for M = 0.
    """
    deltas, truth = deltas.to(reference.dtype), truth.to(reference.dtype)
    if kind == "giou":
        loss = giou_loss(decode_boxes(deltas, reference, weights), truth)
    else:
        loss = smooth_l1(deltas, encode_boxes(truth, reference, weights), beta)
    return loss.sum() / normalizer
