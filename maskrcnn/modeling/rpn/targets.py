"""What the sampled anchors should predict (Ren et al. 2015, sections 3.1.2 and 3.1.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.layers import match
from maskrcnn.modeling.matching import Sampler, draw
from maskrcnn.structures.padded import PaddedTargets


@dataclass(frozen=True)
class AnchorTargets:
    """The sampled anchors of a batch, as indices into the flattened [N * A_all].

    sampled: int64 [S], the P positive ones of all images first.
    real: bool [S], which of them are drawn; None: all.
    anchors, truth: [P, 4] xyxy pixels, the positive anchors and the ground truth that each should predict.
    """

    sampled: Tensor
    real: Tensor | None
    anchors: Tensor
    truth: Tensor


@torch.no_grad()
def anchor_targets(
    anchors: Tensor,
    targets: PaddedTargets,
    sampler: Sampler | None,
    *,
    low: float,
    high: float,
    count: int,
    positive_fraction: float,
    keys: Tensor,
    static: bool,
) -> AnchorTargets:
    """Match and sample the anchors of every image.

    Args:
        anchors: [A_all, 4] of all levels, xyxy; the same for every image of a batch.
        low, high: IoU below which an anchor is negative, from which it is positive.
        count, positive_fraction: anchors to sample an image, and how many of them at most positive.
        keys: int64 [N, A_all], of the sampling.
        static: always room for as many; else for those that are drawn.
    """
    truth = targets.boxes.to(anchors.dtype)
    index, labels = match(truth, targets.real, anchors, low, high, True)
    drawn = draw(labels, count, positive_fraction, keys, sampler)
    images = torch.arange(len(targets), device=anchors.device)[:, None]
    positive = (drawn.positive + images * anchors.shape[0]).flatten()
    negative = (drawn.negative + images * anchors.shape[0]).flatten()
    matched = (index.gather(1, drawn.positive) + images * truth.shape[1]).flatten()
    real, other = drawn.positive_real.flatten(), drawn.negative_real.flatten()
    if not static:
        positive, matched, negative = positive[real], matched[real], negative[other]
    boxes, wanted = anchors[positive % anchors.shape[0]], truth.flatten(0, 1)[matched]
    sampled = torch.cat((positive, negative))
    if not static:
        return AnchorTargets(sampled, None, boxes, wanted)
    return AnchorTargets(sampled, torch.cat((real, other)), boxes, wanted)
