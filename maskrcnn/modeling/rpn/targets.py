"""What the sampled anchors should predict (Ren et al. 2015, sections 3.1.2 and 3.1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.modeling.matching import Sampler, match_boxes


@dataclass(frozen=True)
class AnchorTargets:
    """The sampled anchors of a batch, as indices into the flattened [N * A_all].

    positive: int64 [P].  negative: int64 [Q].
    anchors, truth: [P, 4] xyxy pixels, the positive anchors and the ground truth that each should predict.
    """

    positive: Tensor
    negative: Tensor
    anchors: Tensor
    truth: Tensor


@torch.no_grad()
def anchor_targets(
    anchors: Tensor,
    truths: Sequence[Tensor],
    sampler: Sampler,
    *,
    low: float,
    high: float,
    count: int,
    positive_fraction: float,
    keys: Tensor,
) -> AnchorTargets:
    """Match and sample the anchors of every image.

    Args:
        anchors: [A_all, 4] of all levels, xyxy; the same for every image of a batch.
        truths: ground-truth boxes [G, 4] of every image, xyxy; G may be 0.
        low, high: IoU below which an anchor is negative, from which it is positive.
        count, positive_fraction: anchors to sample an image, and how many of them at most positive.
        keys: int64 [N, A_all], of the sampling.
    """
    positives, negatives, references, matched = [], [], [], []
    for image, truth in enumerate(truths):
        truth = truth.to(anchors.dtype)
        index, labels = match_boxes(truth, anchors, low, high, low_quality=True)
        positive, negative = sampler(labels, count, positive_fraction, keys[image])
        positives.append(positive + image * anchors.shape[0])
        negatives.append(negative + image * anchors.shape[0])
        references.append(anchors[positive])
        matched.append(truth[index[positive]])
    return AnchorTargets(*(torch.cat(rows) for rows in (positives, negatives, references, matched)))
