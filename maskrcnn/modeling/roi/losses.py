"""The RoI heads' losses, but that of the boxes, which is in :mod:`maskrcnn.modeling.losses`.

Pure functions; every one is 0, with a gradient of 0, on empty input.

Legend: R = sampled RoIs of the batch, P = positive ones, K = classes, M = mask side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy over the RoIs, a scalar (Girshick 2015, eq. 1).

    Args:
        logits: [R, K + 1], background last.  labels: int64 [R], K = background.
    """
    if labels.numel() == 0:
        return logits.sum() * 0
    return F.cross_entropy(wide(logits), labels)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over all pixels of the positive RoIs, a scalar.

    The logits are those of the ground-truth class alone: classes do not compete (He et al. 2017, section 3).

    Args:
        logits: [P, M, M].  targets: [P, M, M] in [0, 1].
    """
    if targets.numel() == 0:
        return logits.sum() * 0
    logits = wide(logits)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def softmax_mask_loss(own: Tensor, background: Tensor, targets: Tensor) -> Tensor:
    """Mean multinomial cross-entropy over all pixels of positive RoIs, a scalar: the classes compete.

    The rival of :func:`mask_loss` in He et al. 2017, table 2b.  A pixel inside the object has the RoI's
    class, one outside is background; a soft target in between shares the pixel among the two.

    Args:
        own, background: [P, M, M], logarithms of the softmax of the RoI's own class and of the background.
        targets: [P, M, M] in [0, 1].
    """
    if targets.numel() == 0:
        return (own + background).sum() * 0
    targets = targets.to(own.dtype)
    return -(targets * own + (1 - targets) * background).mean()


def wide(x: Tensor) -> Tensor:
    """``x`` [...] -> [...], float32 where it is of half precision; losses are summed in at least that."""
    return x if x.dtype.itemsize >= 4 else x.float()
