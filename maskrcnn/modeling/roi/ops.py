"""The RoI ops that ``model.roi_op`` chooses from, one config an op.

Each pools a whole pyramid in one call of its layer; see :mod:`maskrcnn.layers` for what the options mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from maskrcnn.layers.legacy import roi_align_legacy
from maskrcnn.layers.prroi_pool import prroi_pool
from maskrcnn.layers.reference import Bins, Rounding
from maskrcnn.layers.roi_align import Aggregation, Samples, roi_align
from maskrcnn.layers.roi_pool import roi_pool
from maskrcnn.layers.roi_warp import roi_warp
from maskrcnn.modeling.interfaces import ROI_OPS, RoIOp


class RoIAlignOp(RoIOp):
    """RoIAlign (He et al. 2017, section 3) at a fixed output size; see :func:`maskrcnn.layers.roi_align`."""

    def __init__(
        self,
        output_size: int,
        *,
        sampling_ratio: int = 0,
        aligned: bool = True,
        aggregation: Aggregation = "avg",
        samples: Samples = "grid",
        seed: int = 0,
        inclusive: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.inclusive = inclusive
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.aggregation: Aggregation = aggregation
        self.samples: Samples = samples
        self.seed = seed

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        if self.inclusive:
            rois = rois - rois.new_tensor([0, 0, 0, 1, 1])
        return roi_align(
            features,
            rois,
            self.output_size,
            scales,
            self.sampling_ratio,
            self.aligned,
            aggregation=self.aggregation,
            samples=self.samples,
            seed=self.seed,
            levels=levels,
        )


class RoIPoolOp(RoIOp):
    """RoIPool (Girshick 2015, section 2.1) at a fixed output size; see :func:`maskrcnn.layers.roi_pool`."""

    def __init__(self, output_size: int, *, rounding: Rounding = "round", bins: Bins = "overlap") -> None:
        super().__init__()
        self.output_size = output_size
        self.rounding: Rounding = rounding
        self.bins: Bins = bins

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        return roi_pool(
            features, rois, self.output_size, scales, rounding=self.rounding, bins=self.bins, levels=levels
        )


class RoIWarpOp(RoIOp):
    """RoIWarp (Dai et al. 2016) at a fixed output size; see :func:`maskrcnn.layers.roi_warp`."""

    def __init__(
        self, output_size: int, *, sampling_ratio: int = 0, aggregation: Aggregation = "avg"
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.aggregation: Aggregation = aggregation

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        return roi_warp(
            features,
            rois,
            self.output_size,
            scales,
            self.sampling_ratio,
            aggregation=self.aggregation,
            levels=levels,
        )


class PrRoIPoolOp(RoIOp):
    """PrRoI pooling (Jiang et al. 2018) at a fixed output size; see :func:`maskrcnn.layers.prroi_pool`."""

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        return prroi_pool(features, rois, self.output_size, scales, levels=levels)


class RoIAlignLegacyOp(RoIOp):
    """The first public PyTorch RoIAlign; see :func:`maskrcnn.layers.roi_align_legacy`."""

    def __init__(self, output_size: int, *, pooling: Literal["avg", "max", "none"] = "avg") -> None:
        super().__init__()
        self.output_size = output_size
        self.pooling = pooling

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        points = self.output_size if self.pooling == "none" else self.output_size + 1
        grid = roi_align_legacy(features, rois, points, scales, levels=levels)
        if self.pooling == "avg":
            return functional.avg_pool2d(grid, kernel_size=2, stride=1)
        if self.pooling == "max":
            return functional.max_pool2d(grid, kernel_size=2, stride=1)
        return grid


@ROI_OPS.register("roi_align")
@dataclass(frozen=True, kw_only=True)
class RoIAlignConfig:
    """RoIAlign; defaults are Detectron2's ("ROIAlignV2")."""

    #: Samples a bin along each axis; 0 or less = adaptive, ceil(bin side) (Detectron2: 0, torchvision: 2).
    sampling_ratio: int = 0
    #: Subtract half a cell, so that cell centres lie at 0.5 (Detectron2: true, torchvision: false).
    aligned: bool = True
    #: Average or maximum of a bin's samples (He et al. 2017, table 2c compares them).
    aggregation: Aggregation = "avg"
    #: Sample positions: a regular grid, or drawn at random in each bin.
    samples: Samples = "grid"
    #: Where random positions are drawn from, 0 .. 2^32 - 1.
    seed: int = 0
    #: Take the box's last pixel as its far corner, not that pixel's end: a pixel less (maskrcnn-benchmark).
    inclusive: bool = False

    def build(self, output_size: int) -> RoIAlignOp:
        return RoIAlignOp(
            output_size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            aggregation=self.aggregation,
            samples=self.samples,
            seed=self.seed,
            inclusive=self.inclusive,
        )


@ROI_OPS.register("roi_pool")
@dataclass(frozen=True, kw_only=True)
class RoIPoolConfig:
    """RoIPool with the original's rounding: the ablation of He et al. 2017, table 2c."""

    #: Rounding of the box to cells: round (Caffe, torchvision), floor, or sppnet (He et al. 2014).
    rounding: Rounding = "round"
    #: Bins: overlap (Caffe, torchvision), partition or truncate; see ``maskrcnn.layers.roi_pool``.
    bins: Bins = "overlap"

    def build(self, output_size: int) -> RoIPoolOp:
        return RoIPoolOp(output_size, rounding=self.rounding, bins=self.bins)


@ROI_OPS.register("roi_warp")
@dataclass(frozen=True, kw_only=True)
class RoIWarpConfig:
    """RoIWarp: the box is rounded to cells, its bins are not (He et al. 2017, table 2c)."""

    #: Samples a bin along each axis; 0 or less = adaptive, ceil(bin side).
    sampling_ratio: int = 0
    #: Average or maximum of a bin's samples (He et al. 2017, table 2c compares them).
    aggregation: Aggregation = "avg"

    def build(self, output_size: int) -> RoIWarpOp:
        return RoIWarpOp(output_size, sampling_ratio=self.sampling_ratio, aggregation=self.aggregation)


@ROI_OPS.register("prroi_pool")
@dataclass(frozen=True, kw_only=True)
class PrRoIPoolConfig:
    """Precise RoI pooling: the exact mean of the bilinear surface over each bin (Jiang et al. 2018)."""

    def build(self, output_size: int) -> PrRoIPoolOp:
        return PrRoIPoolOp(output_size)


@ROI_OPS.register("roi_align_legacy")
@dataclass(frozen=True, kw_only=True)
class RoIAlignLegacyConfig:
    """The RoIAlign of the first public PyTorch Faster R-CNN (jwyang/faster-rcnn.pytorch)."""

    #: 2 x 2 neighbours of a grid one larger, averaged or maximised as published, or the grid itself.
    pooling: Literal["avg", "max", "none"] = "avg"

    def build(self, output_size: int) -> RoIAlignLegacyOp:
        return RoIAlignLegacyOp(output_size, pooling=self.pooling)
