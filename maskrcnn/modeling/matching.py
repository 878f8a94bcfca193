"""Which ground truth belongs to which box, and which boxes to train on.  Pure functions.

Legend: G = ground-truth boxes of an image, M = anchors or proposals of an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskrcnn.layers import match

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1

#: ``(labels [M], count, positive_fraction, keys int64 [M]) -> (positive, negative)`` int64 indices into M.
Sampler = Callable[[Tensor, int, float, Tensor], tuple[Tensor, Tensor]]


def match_boxes(
    truth: Tensor, boxes: Tensor, low: float, high: float, *, low_quality: bool, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Give every box the ground truth that it overlaps most, and a label.

    POSITIVE where that IoU >= ``high``, NEGATIVE where it is < ``low``, IGNORED between.  With
    ``low_quality`` a ground truth also makes positive those boxes that overlap it most (Ren et al. 2015,
    section 3.1.2, condition i), even below ``high``; they keep the ground truth that *they* overlap most.
    A ground truth that overlaps no box claims none.

    Args:
        truth: [G, 4] xyxy.  G = 0 makes every box negative (IGNORED with a ``floor``: all overlap 0).
        boxes: [M, 4] xyxy.
        floor: boxes of an IoU below it are IGNORED, not NEGATIVE (0.1 in Girshick 2015, section 2.3).

    Returns:
        index: int64 [M] into ``truth`` (0 where G = 0; meaningless unless positive).
        labels: int8 [M].
    """
    real = torch.ones(1, truth.shape[0], dtype=torch.bool, device=truth.device)
    index, labels = match(truth[None], real, boxes, low, high, low_quality, floor)
    return index[0], labels[0]


def balanced_sample(
    labels: Tensor, count: int, positive_fraction: float, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw up to ``count`` boxes, at most ``positive_fraction`` of them positive, negatives for the rest.

    Args:
        labels: [M]; > 0 positive, 0 negative, < 0 never drawn.
        keys: int64 [M], all different; those of the largest are drawn (``structures.seeds.random_keys``).

    Returns:
        positive, negative: int64 indices, each by falling key: in random order.
    """
    positive = (labels > 0).nonzero()[:, 0]
    negative = (labels == 0).nonzero()[:, 0]
    num_positive = min(positive.numel(), int(count * positive_fraction))
    num_negative = min(negative.numel(), count - num_positive)
    return _top(positive, num_positive, keys), _top(negative, num_negative, keys)


def _top(index: Tensor, count: int, keys: Tensor) -> Tensor:
    return index[keys[index].topk(count).indices]
