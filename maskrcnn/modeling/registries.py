"""The model's swappable slots: what each part must offer, and the registry of its kinds.

A part is a module; its config is a frozen dataclass with ``build()``.  To add your own, subclass the base
class here, register its config, and list your module under ``plugins:``.

Legend: N = images of a batch, R = RoIs of a batch, K = classes without background, s = pooled size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from maskrcnn.config.registry import Registry


class Backbone(nn.Module):
    """Image tensor -> feature maps by name, finest first.

    channels: channel count of every output, e.g. ``{"c2": 256, ..., "c5": 2048}``.
    strides: input pixels a cell, in the same order, e.g. ``{"c2": 4, ..., "c5": 32}``.
    """

    channels: dict[str, int]
    strides: dict[str, int]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``x`` [N, 3, H, W] float, normalised -> name: [N, channels[name], H / stride, W / stride]."""
        raise NotImplementedError


class Neck(nn.Module):
    """Feature maps -> feature maps; described by ``channels`` and ``strides`` as a :class:`Backbone` is."""

    channels: dict[str, int]
    strides: dict[str, int]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


class RoIOp(nn.Module):
    """Pools boxes out of a pyramid: one call for all levels."""

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        """Pool every RoI from its own level.

        Args:
            features: one [N, C, Hl, Wl] a level.
            rois: float [R, 5], image index and xyxy in pixels of the network frame.
            levels: int64 [R], index into ``features``.
            scales: feature cells a pixel, one a level (1 / stride).

        Returns:
            [R, C, s, s] in the features' dtype.
        """
        raise NotImplementedError


class BoxHead(nn.Module):
    """Pooled features -> class logits and box deltas.

    pool_size: the side s of the RoI features that it reads.
    """

    pool_size: int

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """``pooled`` [R, C, s, s] -> logits [R, K + 1] (background last), deltas [R, 4K] or [R, 4]."""
        raise NotImplementedError


class MaskHead(nn.Module):
    """Pooled features -> mask logits, with the loss and the probability that belong to them.

    pool_size: the side s of the RoI features that it reads.
    mask_size: the side M of the masks that it predicts.
    """

    pool_size: int
    mask_size: int

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> logits [R, K or 1, M, M]."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss: logits [R, K or 1, M, M], labels int64 [R], targets [R, M, M] in [0, 1]."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Foreground probability [R, M, M] of each RoI's own class, from logits and labels int64 [R]."""
        raise NotImplementedError


class BackboneConfig(Protocol):
    def build(self) -> Backbone: ...


class NeckConfig(Protocol):
    def build(self, channels: dict[str, int], strides: dict[str, int]) -> Neck: ...


class RoIOpConfig(Protocol):
    def build(self, output_size: int) -> RoIOp: ...


class BoxHeadConfig(Protocol):
    def build(self, channels: int, num_classes: int) -> BoxHead: ...


class MaskHeadConfig(Protocol):
    def build(self, channels: int, num_classes: int) -> MaskHead: ...


BACKBONES: Registry[BackboneConfig] = Registry("backbone")
NECKS: Registry[NeckConfig] = Registry("neck")
ROI_OPS: Registry[RoIOpConfig] = Registry("RoI op")
BOX_HEADS: Registry[BoxHeadConfig] = Registry("box head")
MASK_HEADS: Registry[MaskHeadConfig] = Registry("mask head")
