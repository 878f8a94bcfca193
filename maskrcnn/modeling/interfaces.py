"""The model's swappable slots: what each part must offer, and the registry of its kinds.

A part is a module; its config is a frozen dataclass with ``build()``.  To add your own, subclass the base
class here, register its config, and list your module under ``plugins:``.

Legend: N = images of a batch, R = RoIs of a batch, P = positive ones, D = detections, K = classes without
background, J = keypoints, s = pooled size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from maskrcnn.config.registry import Registry
from maskrcnn.layers.operator import ROI_OPS as ROI_OPS
from maskrcnn.layers.operator import RoIOpConfig as RoIOpConfig


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
        """The backbone's maps [N, C, h, w] by name -> its own, by the names in ``strides``."""
        raise NotImplementedError


class RoIOp(nn.Module):
    """An RoI operator with weights of its own; one without is a :class:`maskrcnn.layers.RoIOperator`."""

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        """Pool every RoI [R, 5] from its own level -> [R, C, s, s]; as an operator's call."""
        raise NotImplementedError


class RoITrunk(nn.Module):
    """Layers between pooling and the heads, shared by them: C4's fifth stage (He et al. 2017, figure 4 left).

    pool_size: the side s of the RoI features that it reads.
    channels, output_size: what it gives to the heads.
    """

    pool_size: int
    channels: int
    output_size: int

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> [R, channels, output_size, output_size]."""
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
        """``pooled`` [R, C, s, s] -> logits [R, K or 1, M, M]; one channel more with a background."""
        raise NotImplementedError

    def own(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """The logits that ``loss`` and ``probabilities`` read for RoIs of these classes (int64 [R]).

        All of ``forward`` here; a head that can leave the other classes out gives [R, 1, M, M].
        """
        logits: Tensor = self(pooled)
        return logits

    def loss(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss: logits [R, K or 1, M, M], labels int64 [R], targets [R, M, M] in [0, 1]."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Foreground probability [R, M, M] of each RoI's own class, from logits and labels int64 [R]."""
        raise NotImplementedError


class KeypointHead(nn.Module):
    """Pooled features -> a heat map a keypoint, with the loss and the decoding that belong to it.

    pool_size: the side s of the RoI features that it reads.
    heatmap_size: the side M of the heat maps.
    num_keypoints: J.
    """

    pool_size: int
    heatmap_size: int
    num_keypoints: int

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> logits [R, J, M, M]."""
        raise NotImplementedError

    def loss(self, logits: Tensor, boxes: Tensor, keypoints: Tensor) -> Tensor:
        """Scalar loss of positive RoIs: logits [P, J, M, M], boxes [P, 4] xyxy, keypoints [P, J, 3] in the
        boxes' frame (x, y, visibility as COCO: 0 not labelled).
        """
        raise NotImplementedError

    def decode(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """logits [D, J, M, M], boxes [D, 4] -> [D, J, 3]: x, y in the boxes' frame, score."""
        raise NotImplementedError


class BackboneConfig(Protocol):
    """What a ``backbone`` registration makes from a YAML mapping."""

    def build(self) -> Backbone:
        """The network; ConfigError or CheckpointError where keys or ``weights`` do not fit."""
        ...


class NeckConfig(Protocol):
    """What a ``neck`` registration makes from a YAML mapping."""

    def build(self, channels: dict[str, int], strides: dict[str, int]) -> Neck:
        """``channels``, ``strides`` (pixels a cell): of the backbone's maps, by their names."""
        ...


class RoITrunkConfig(Protocol):
    """What a ``roi_trunk`` registration makes from a YAML mapping."""

    def build(self, backbone: BackboneConfig, channels: int) -> RoITrunk:
        """``backbone``: the model's, whose next stage a trunk may be.  ``channels``: of the pooled map."""
        ...


class BoxHeadConfig(Protocol):
    """What a ``box_head`` registration makes from a YAML mapping."""

    def build(self, channels: int, num_classes: int) -> BoxHead:
        """``channels``: of the pooled map.  ``num_classes``: K, without background."""
        ...


class MaskHeadConfig(Protocol):
    """What a ``mask_head`` registration makes from a YAML mapping."""

    def build(self, channels: int, num_classes: int) -> MaskHead:
        """``channels``: of the pooled map.  ``num_classes``: K, without background."""
        ...


class KeypointHeadConfig(Protocol):
    """What a ``keypoint_head`` registration makes from a YAML mapping."""

    def build(self, channels: int) -> KeypointHead:
        """``channels``: of the pooled map."""
        ...


BACKBONES: Registry[BackboneConfig] = Registry("backbone")
NECKS: Registry[NeckConfig] = Registry("neck")
ROI_TRUNKS: Registry[RoITrunkConfig] = Registry("RoI trunk")
BOX_HEADS: Registry[BoxHeadConfig] = Registry("box head")
MASK_HEADS: Registry[MaskHeadConfig] = Registry("mask head")
KEYPOINT_HEADS: Registry[KeypointHeadConfig] = Registry("keypoint head")
