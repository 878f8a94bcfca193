"""Weights and losses that are finite and yet ruined: a rate that is too high can leave weights of 1e17."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Root mean squares of trained networks lie between 0.01 and 1; a hundredfold of that is ruin.
_LEAST, _GROWTH = 0.1, 100.0
#: The same without a beginning to compare with: what a resumed run begins with.
_ABSURD = 1000.0
#: Losses of detectors begin between 1 and 20.
_LOSS_GROWTH = 100.0


class Soundness:
    """Compares weights with those at the beginning; it reads them where the caller asks, at checkpoints."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        """
        Args:
            parameters: what is trained, float, any device.
        """
        self._parameters = [p.detach() for p in parameters]
        self._beginning = root_mean_square(self._parameters)

    def ruined_from_the_start(self) -> str | None:
        """What is wrong with the weights that this process began with, as a phrase; None where nothing is."""
        if self._beginning <= _ABSURD:
            return None
        return f"the weights have a root mean square of {self._beginning:.1e}"

    def weights(self) -> str | None:
        """What is wrong with the weights now, as a phrase; None where nothing is.  Waits for the device."""
        now = root_mean_square(self._parameters)
        factor = now / max(self._beginning, _LEAST)
        if factor <= _GROWTH and now <= _ABSURD:
            return None
        beginning = f"{self._beginning:.2g} at the beginning"
        return f"the weights have grown from a root mean square of {beginning} to {now:.1e}"


class LossWatch:
    """Compares losses with the lowest so far."""

    def __init__(self) -> None:
        self._lowest = math.inf

    def growth(self, total: float) -> str | None:
        """What is wrong with a mean total loss, as a phrase; None where nothing is."""
        lowest, self._lowest = self._lowest, min(self._lowest, total)
        if not math.isfinite(lowest) or total <= _LOSS_GROWTH * max(1.0, lowest):
            return None
        return f"the loss has grown to {total:.3g} from {lowest:.3g}"


def root_mean_square(tensors: Sequence[Tensor]) -> float:
    """Over all elements of all of them; sums in double precision, so that 1e30 does not overflow."""
    count = sum(t.numel() for t in tensors)
    if not count:
        return 0.0
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64) for t in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms))) / math.sqrt(count)
