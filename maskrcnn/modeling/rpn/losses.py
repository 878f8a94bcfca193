"""The RPN's first loss (Ren et al. 2015, eq. 1); that of the boxes is in :mod:`maskrcnn.modeling.losses`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def objectness_loss(logits: Tensor, labels: Tensor, normalizer: float) -> Tensor:
    """Binary cross-entropy, summed and divided by ``normalizer``, a scalar.

    Args:
        logits: [S], of the sampled anchors.  labels: [S], 1 object, 0 background.
    """
    loss = F.binary_cross_entropy_with_logits(logits.to(labels.dtype), labels, reduction="sum")
    return loss / normalizer
