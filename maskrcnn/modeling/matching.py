"""Which ground truth belongs to which box, and which boxes to train on.  Pure functions.

Legend: G = ground-truth boxes of an image, M = anchors or proposals of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """Drawn up to ``count`` boxes, at most ``positive_fraction`` of them positive, negatives for the rest.

    The slow twin of :func:`draw`, for one image.

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


@dataclass(frozen=True)
class Drawn:
    """The boxes drawn of every image, in room for P positive and Q negative ones.

    positive, negative: int64 [N, P] and [N, Q], places among the M boxes of the image.
    positive_real, negative_real: bool [N, P] and [N, Q], which of them are drawn: the first of an image.
    """

    positive: Tensor
    negative: Tensor
    positive_real: Tensor
    negative_real: Tensor


def draw(
    labels: Tensor, count: int, positive_fraction: float, keys: Tensor, sampler: Sampler | None = None
) -> Drawn:
    """What :func:`balanced_sample` (or another ``sampler``) draws of every image, in tensors of fixed shape.

    Args:
        labels: [N, M].  keys: int64 [N, M].  The rest as there.

    Returns:
        P = ``count * positive_fraction`` and Q = ``count``, or M if that is less.
    """
    boxes = labels.shape[1]
    room = min(int(count * positive_fraction), boxes), min(count, boxes)
    if sampler is not None:
        drawn = [
            sampler(of_image, count, positive_fraction, key)
            for of_image, key in zip(labels, keys, strict=True)
        ]
        positive, positive_real = _padded([image[0] for image in drawn], room[0])
        negative, negative_real = _padded([image[1] for image in drawn], room[1])
        return Drawn(positive, negative, positive_real, negative_real)
    least = torch.iinfo(keys.dtype).min
    positive = torch.where(labels > 0, keys, least).topk(room[0], dim=1).indices
    negative = torch.where(labels == 0, keys, least).topk(room[1], dim=1).indices
    positive_real = labels.gather(1, positive) > 0
    left = count - positive_real.sum(dim=1, keepdim=True)
    places = torch.arange(room[1], device=labels.device)
    negative_real = (labels.gather(1, negative) == 0) & (places < left)
    return Drawn(positive, negative, positive_real, negative_real)


def _padded(rows: Sequence[Tensor], room: int) -> tuple[Tensor, Tensor]:
    """Indices [Ri] of every image as [N, room], and which of those are real."""
    out = rows[0].new_zeros(len(rows), room)
    real = torch.zeros(len(rows), room, dtype=torch.bool, device=out.device)
    for i, row in enumerate(rows):
        out[i, : len(row)], real[i, : len(row)] = row, True
    return out, real


def _top(index: Tensor, count: int, keys: Tensor) -> Tensor:
    return index[keys[index].topk(count).indices]
