"""The RPN's losses (Ren et al. 2015, eq. 1).  Pure functions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from maskrcnn.modeling.losses import smooth_l1


def objectness_loss(logits: Tensor, labels: Tensor, normalizer: float) -> Tensor:
    """Binary cross-entropy, summed and divided by ``normalizer``.

    Args:
        logits: [S], of the sampled anchors.  labels: [S], 1 object, 0 background.
    """
    loss = F.binary_cross_entropy_with_logits(logits.to(labels.dtype), labels, reduction="sum")
    return loss / normalizer


def box_loss(deltas: Tensor, targets: Tensor, beta: float, normalizer: float) -> Tensor:
    """Smooth L1 of the positive anchors' deltas, summed and divided by ``normalizer``.

    Args:
        deltas, targets: [P, 4].  beta: see :func:`smooth_l1`.
    """
    return smooth_l1(deltas.to(targets.dtype), targets, beta).sum() / normalizer
