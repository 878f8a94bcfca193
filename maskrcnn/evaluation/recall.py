"""Average recall: how proposals are judged, whatever their class (Hosang et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.structures import box_iou


def best_overlaps(proposals: Tensor, truth: Tensor) -> Tensor:
    """The IoU at which each ground truth is found, every proposal serving one ground truth at most.

    The pair of the highest IoU is taken first, then the best of what is left, and so on, as Detectron and
    Detectron2 do.

    Args:
        proposals: [P, 4] xyxy.
        truth: [G, 4] xyxy, same frame.

    Returns:
        [G] in [0, 1]; 0 where no proposal was left.
    """
    found = truth.new_zeros(len(truth))
    iou = box_iou(proposals.to(truth.dtype), truth)
    for _ in range(min(iou.shape)):
        value, place = iou.flatten().max(dim=0)
        row, column = divmod(int(place), iou.shape[1])
        found[column] = value
        iou[row] = -1
        iou[:, column] = -1
    return found


def average_recall(overlaps: Tensor) -> float:
    """The mean over IoU 0.5, 0.55, ..., 0.95 of the part of the ground truths found at that IoU or better.

    Args:
        overlaps: [G] of all images.  G = 0 gives NaN.
    """
    thresholds = torch.arange(10, dtype=torch.float64) * 0.05 + 0.5
    return float((overlaps.double()[:, None] >= thresholds).double().mean())
