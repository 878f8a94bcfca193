"""Non-maximum suppression: torchvision's, which nothing here beats yet at 1000-4000 boxes."""

from __future__ import annotations

import torchvision
from torch import Tensor


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress, within each group, every box that overlaps a better one by more than ``iou_threshold``.

    Args:
        boxes: [B, 4] xyxy.
        scores: [B].
        idxs: int64 [B], the group (class, level) of each box; groups do not suppress one another.
        iou_threshold: 0 .. 1.

    Returns:
        int64 indices of the boxes kept, best first.
    """
    # Half-precision coordinates lose whole pixels at 1000 and more once groups are set apart.
    if boxes.dtype.itemsize < 4:
        boxes = boxes.float()
    kept: Tensor = torchvision.ops.batched_nms(boxes, scores.to(boxes.dtype), idxs, iou_threshold)
    return kept
