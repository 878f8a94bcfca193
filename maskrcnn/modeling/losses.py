"""The loss terms of the RPN and of the RoI heads but keypoints: pure functions.

Those of the heads are 0, with a gradient of 0, on empty input.

Legend: S = sampled anchors, R = sampled RoIs of the batch, P = positive ones, K = classes; M = boxes, or the
side of masks.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
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
    normalizer: float | Tensor,
    real: Tensor | None = None,
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
        real: bool [M], which boxes count; None: all.
        beta: of smooth L1; 0 = L1.  weights: of the box coder.

    Returns:
        A scalar in the boxes' dtype; 0, with a gradient of 0, for M = 0.
    """
    deltas, truth = deltas.to(reference.dtype), truth.to(reference.dtype)
    if kind == "giou":
        loss = giou_loss(decode_boxes(deltas, reference, weights), truth)
    else:
        loss = smooth_l1(deltas, encode_boxes(truth, reference, weights), beta)
    return masked(loss, real).sum() / normalizer


def objectness_loss(
    logits: Tensor, labels: Tensor, normalizer: float | Tensor, real: Tensor | None = None
) -> Tensor:
    """The RPN's first loss (Ren et al. 2015, eq. 1): binary cross-entropy, summed and
    divided by ``normalizer``, a scalar.

    Args:
        logits: [S], of the sampled anchors.  labels: [S], 1 object, 0 background.
        real: bool [S], which anchors count; None: all.
    """
    loss = F.binary_cross_entropy_with_logits(logits.to(labels.dtype), labels, reduction="none")
    return masked(loss, real).sum() / normalizer


def class_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, real: Tensor | None = None
) -> Tensor:
    """Mean softmax cross-entropy over the RoIs, a scalar (Girshick 2015, eq. 1).

    Args:
        logits: [R, K + 1], background last.  labels: int64 [R], K = background.
        weights: [K + 1], > 0, how much a RoI of each class weighs in the mean; None: all the same.
        real: bool [R], which RoIs count; None: all.
    """
    if labels.numel() == 0:
        return logits.sum() * 0
    logits = wide(logits)
    if weights is not None:
        weights = weights.to(logits.dtype)
    if real is None:
        return F.cross_entropy(logits, labels, weights)
    total = F.cross_entropy(logits, torch.where(real, labels, -1), weights, reduction="sum", ignore_index=-1)
    share = masked(torch.ones_like(logits[:, 0]) if weights is None else weights[labels], real).sum()
    return total / torch.where(share > 0, share, 1)


def mask_loss(logits: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over all pixels of the positive RoIs, a scalar.

    The logits are those of the ground-truth class alone: classes do not compete (He et al. 2017, section 3).

    Args:
        logits: [P, M, M].  targets: [P, M, M] in [0, 1].
        real: bool [P], which RoIs count; None: all.
    """
    if targets.numel() == 0:
        return logits.sum() * 0
    logits = wide(logits)
    if real is None:
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
    return mean(F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none"), real)


def softmax_mask_loss(own: Tensor, background: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean multinomial cross-entropy over all pixels of positive RoIs, a scalar: the classes compete.

    The rival of :func:`mask_loss` in He et al. 2017, table 2b.  A pixel inside the object has the RoI's
    class, one outside is background; a soft target in between shares the pixel among the two.

    Args:
        own, background: [P, M, M], logarithms of the softmax of the RoI's own class and of the background.
        targets: [P, M, M] in [0, 1].
        real: bool [P], which RoIs count; None: all.
    """
    targets = targets.to(own.dtype)
    return -mean(targets * own + (1 - targets) * background, real)


def masked(values: Tensor, real: Tensor | None) -> Tensor:
    """The values, 0 in the rows that are not real.

    Args:
        values: [R, ...].
        real: bool [R]; None: all are.

    Returns:
        [R, ...].
    """
    if real is None:
        return values
    return torch.where(real.view(-1, *[1] * (values.dim() - 1)), values, 0)


def row_count(rows: Tensor, real: Tensor | None) -> int | Tensor:
    """How many of ``rows`` [R, ...] are ``real`` (bool [R]; None: all), at least 1: a number or a scalar."""
    return max(rows.shape[0], 1) if real is None else real.sum().clamp(min=1)


def mean(values: Tensor, real: Tensor | None = None) -> Tensor:
    """The mean over the real rows, 0 with a gradient of 0 where there is none.

    Args:
        values: [R, ...].
        real: bool [R]; None: all are.

    Returns:
        A scalar.
    """
    if values.numel() == 0:
        return values.sum() * 0
    if real is None:
        return values.mean()
    return masked(values, real).sum() / (row_count(values, real) * math.prod(values.shape[1:]))


def wide(x: Tensor) -> Tensor:
    """``x`` [...] -> [...], float32 where it is of half precision; losses are summed in at least that."""
    return x if x.dtype.itemsize >= 4 else x.float()
