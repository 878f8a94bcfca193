"""THE pixel convention, and arithmetic on boxes.

A box is ``(x1, y1, x2, y2)`` in continuous image coordinates: pixel ``i`` covers ``[i, i + 1)``, the
image covers ``[0, width) x [0, height)``, and a box's width is ``x2 - x1``.  There is no ``+ 1`` anywhere
except where an operator reproduces an older paper's arithmetic on purpose, and there it says so.

Legend: M, N = numbers of boxes; all tensors are floating point and keep their dtype and device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas, in square pixels.  ``boxes`` [..., 4] xyxy -> [...]; negative sides count as 0."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair.  [..., M, 4] and [..., N, 4] xyxy -> [..., M, N] in [0, 1].

    Two boxes of zero area have IoU 0, never NaN.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    low = torch.max(a[..., :2], b[..., :2])
    high = torch.min(a[..., 2:], b[..., 2:])
    sides = (high - low).clamp_(min=0)
    inter = sides[..., 0] * sides[..., 1]
    union = box_area(a) + box_area(b) - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(inter))


def clip_boxes(boxes: Tensor, height: Any, width: Any) -> Tensor:
    """Cut boxes to the image, or each to its own.  ``boxes`` [..., 4] xyxy in pixels -> [..., 4].

    Args:
        height, width: pixels, as numbers; or as tensors on the boxes' device, for each box (or broadcast).
    """
    if isinstance(height, Tensor):
        limits = torch.stack((width, height, width, height), dim=-1).to(boxes.dtype)
        return boxes.clamp(min=0).minimum(limits)
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1
    )


def large_enough(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes have no side below ``min_size`` pixels, and none of 0.  [..., 4] -> bool [...]."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return ((sides >= min_size) & (sides > 0)).all(dim=-1)


def unit_box(like: Tensor) -> Tensor:
    """The box (0, 0, 1, 1), [4], of the dtype and device of ``like`` [...]: it stands where there is none.

    Whatever is computed of it is finite, and so are gradients that a mask then multiplies by 0.
    """
    return torch.cat((like.new_zeros(2), like.new_ones(2)))


def numbers(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``values`` as a tensor [n] of the dtype (or another) and on the device of ``like`` [...].

    It is not copied there, which would be waited for.
    """
    dtype = dtype or like.dtype
    if like.device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return torch.stack([torch.full((), value, dtype=dtype, device=like.device) for value in values])


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """COCO's x, y, width, height to x1, y1, x2, y2.  [N, 4] -> [N, 4]."""
    return torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 to COCO's x, y, width, height.  [N, 4] -> [N, 4]."""
    return torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)
