"""Ground-truth instance masks of one image, kept small and resampled late.

(Interface; the implementation follows.)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class InstanceMasks:
    """G instance masks in one frame (network frame once the transforms have run)."""

    def __len__(self) -> int:
        raise NotImplementedError

    def select(self, indices: Sequence[int]) -> InstanceMasks:
        raise NotImplementedError

    def crop_and_resize(self, boxes: Tensor, indices: Tensor, size: int, mode: str) -> Tensor:
        raise NotImplementedError
