"""The operators that RoIAlign is compared with.

RoIPool (Girshick 2015); RoIWarp (Dai et al. 2016, MNC; He et al. 2017, table 2c); precise RoI pooling (Jiang
et al. 2018, IoU-Net); the RoIAlign of the first public PyTorch Faster R-CNN (jwyang/faster-rcnn.pytorch), for
older checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor
from torch.nn import functional

from maskrcnn.layers import geometry, ops
from maskrcnn.layers.arguments import check_choice, check_sampling_ratio, prepare
from maskrcnn.layers.operator import ROI_OPS, Length, Maps, RoIOperator, Scale, Scales, Size, sampling_words
from maskrcnn.layers.roi_align import Aggregation, SamplingRatio


def roi_pool(
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    *,
    rounding: geometry.Rounding = "round",
    bins: geometry.Bins = "overlap",
    levels: Tensor | None = None,
) -> Tensor:
    """Pool each RoI by the maximum over quantised bins; an empty bin gives 0.

    The positional arguments are those of ``torchvision.ops.roi_pool``; the defaults give its numbers to the
    bit.

    Args:
        input, boxes, output_size, spatial_scale, levels: as of :func:`maskrcnn.layers.roi_align`: features
            [N, C, H, W] or a list of pyramid levels, boxes [K, 5] or a list of [L, 4].
        rounding: of the box to cells.  ``round``: C's round, halves away from zero (Caffe, torchvision);
            ``floor``; ``sppnet``: left and top floor + 1, right and bottom ceil - 1 (He et al. 2014).
        bins: ``overlap``: the last cell included (side = end - start + 1, at least 1), edges by floor and
            ceil so that neighbours share cells (Caffe); ``partition``: side = end - start, edges
            floor(i side / P): no cell twice, none lost; ``truncate``: bins of floor(side / P) cells, the
            rest of the side dropped.

    Returns:
        [K, C, P, Q] in the features' type and the layout of the (first) input.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`maskrcnn.layers.roi_align`.
    """
    args = prepare("roi_pool", input, boxes, output_size, spatial_scale, levels)
    check_choice("roi_pool", "rounding", rounding, ops.ROUNDINGS)
    check_choice("roi_pool", "bins", bins, ops.BINS)
    return ops.pooled("roi_pool", args, rounding, bins)


@ROI_OPS.register("roi_pool")
@dataclass(frozen=True)
class RoIPool(RoIOperator):
    """RoIPool with the original's rounding: the ablation of He et al. 2017, table 2c."""

    title = "RoIPool"

    #: Rounding of the box to cells: round (Caffe, torchvision), floor, or sppnet (He et al. 2014).
    rounding: geometry.Rounding = field(default="round", kw_only=True)
    #: Bins: overlap (Caffe, torchvision), partition or truncate; see ``maskrcnn.layers.roi_pool``.
    bins: geometry.Bins = field(default="overlap", kw_only=True)

    def pool(
        self, input: Maps, boxes: Maps, output_size: Size, spatial_scale: Scales, levels: Tensor | None = None
    ) -> Tensor:
        """As a call: [R, C, P, Q]; see :func:`roi_pool`."""
        return roi_pool(
            input, boxes, output_size, spatial_scale, rounding=self.rounding, bins=self.bins, levels=levels
        )

    def axis(
        self, low: Tensor, high: Tensor, scale: Scale, bins: int, length: Length = None
    ) -> geometry.Axis:
        """Whole cells of ``low`` to ``high`` [K]; see :class:`maskrcnn.layers.geometry.CellAxis`."""
        return geometry.cell_axis(low, high, scale, bins, self.rounding, self.bins, length)


def roi_warp(
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    sampling_ratio: int = -1,
    *,
    aggregation: Aggregation = "avg",
    levels: Tensor | None = None,
) -> Tensor:
    """Pool each RoI by bilinear samples inside a box rounded to whole cells.

    Along each axis start = round(x1 s), halves away from zero, and size = max(round(x2 s) - start + 1, 1);
    samples and bins are then those of :func:`maskrcnn.layers.roi_align`, whose arguments, return value,
    [K, C, P, Q], and errors these are.  There is no gradient for the coordinates.
    """
    args = prepare("roi_warp", input, boxes, output_size, spatial_scale, levels)
    check_choice("roi_warp", "aggregation", aggregation, ("avg", "max"))
    ratio = check_sampling_ratio("roi_warp", sampling_ratio)
    return ops.sampled("roi_warp", args, geometry.WARP, ratio, aggregation, "grid", 0)


@ROI_OPS.register("roi_warp")
@dataclass(frozen=True)
class RoIWarp(RoIOperator):
    """RoIWarp: the box is rounded to cells, its bins are not (He et al. 2017, table 2c)."""

    title = "RoIWarp"

    #: Samples a bin along each axis; 0 or less = adaptive, ceil(bin side).
    sampling_ratio: SamplingRatio = 0
    #: Average or maximum of a bin's samples (He et al. 2017, table 2c compares them).
    aggregation: Aggregation = "avg"

    def pool(
        self, input: Maps, boxes: Maps, output_size: Size, spatial_scale: Scales, levels: Tensor | None = None
    ) -> Tensor:
        """As a call: [R, C, P, Q]; see :func:`roi_warp`."""
        return roi_warp(
            input,
            boxes,
            output_size,
            spatial_scale,
            self.sampling_ratio,
            aggregation=self.aggregation,
            levels=levels,
        )

    def axis(
        self, low: Tensor, high: Tensor, scale: Scale, bins: int, length: Length = None
    ) -> geometry.Axis:
        """Samples of ``low`` to ``high`` [K]; see :class:`maskrcnn.layers.geometry.SampledAxis`."""
        return geometry.sampled_axis(low, high, scale, bins, geometry.WARP, self.sampling_ratio)

    def words(self, hidden: Sequence[str] = ()) -> list[str]:
        """Options for people: ``2×2 samples``, ``max``."""
        return sampling_words(self.sampling_ratio) + super().words((*hidden, "sampling_ratio"))


def prroi_pool(
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    *,
    levels: Tensor | None = None,
) -> Tensor:
    """Integrate the bilinear surface over each bin and divide by the bin's area (0 for a bin without area).

    The surface is sum_ij f[i, j] hat(y - i) hat(x - j) with hat(t) = max(0, 1 - |t|): cell i sits at
    coordinate i and the surface fades to 0 within one cell outside the map.  No samples, hence no sampling
    ratio, and the result is differentiable in the RoI coordinates too: ``boxes`` that require a gradient get
    one (the batch index gets 0).

    Arguments, return value [K, C, P, Q] and errors as :func:`maskrcnn.layers.roi_align`.
    """
    args = prepare("prroi_pool", input, boxes, output_size, spatial_scale, levels)
    return ops.average("prroi_pool", args, geometry.PRECISE, 0)


@ROI_OPS.register("prroi_pool")
@dataclass(frozen=True)
class PrRoIPool(RoIOperator):
    """Precise RoI pooling: the exact mean of the bilinear surface over each bin (Jiang et al. 2018)."""

    title = "PrRoIPool"

    def pool(
        self, input: Maps, boxes: Maps, output_size: Size, spatial_scale: Scales, levels: Tensor | None = None
    ) -> Tensor:
        """As a call: [R, C, P, Q]; see :func:`prroi_pool`."""
        return prroi_pool(input, boxes, output_size, spatial_scale, levels=levels)

    def axis(
        self, low: Tensor, high: Tensor, scale: Scale, bins: int, length: Length = None
    ) -> geometry.Axis:
        """Integrals between ``low`` and ``high`` [K]; see :class:`maskrcnn.layers.geometry.IntegralAxis`."""
        return geometry.integral_axis(low, high, scale, bins)


def roi_align_legacy(
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    *,
    levels: Tensor | None = None,
) -> Tensor:
    """Sample each RoI at an (h, w) grid of points whose step is max((x2 - x1) s + 1, 0) / (w - 1) cells.

    The grid is laid over the box corner to corner.  The published CPU backward scatters a gradient only when
    the point lies outside the map (an ``else`` is missing) and its Python wrapper asserts CUDA; ours is the
    true gradient of the forward pass on both devices.

    The + 1 is in feature cells, as published.  A point (y, x) outside [0, H) x [0, W) gives 0; inside, the
    top-left cell of its bilinear sample is min(floor(y), H - 2), so that the last cell's far half is
    extrapolated, as published.

    Arguments and return value, [K, C, P, Q], as :func:`maskrcnn.layers.roi_align`.

    Raises:
        ValueError: also for an output side or a map side under 2 (the original divides by zero or reads
            index -1 there).
    """
    args = prepare("roi_align_legacy", input, boxes, output_size, spatial_scale, levels)
    if args.height < 2 or args.width < 2:
        raise ValueError(
            f"roi_align_legacy: output_size must be at least 2 a side, got ({args.height}, {args.width})."
        )
    for level in args.features:
        if level.shape[2] < 2 or level.shape[3] < 2:
            raise ValueError(
                f"roi_align_legacy: the map must be at least 2 cells a side, got shape {tuple(level.shape)}."
            )
    return ops.average("roi_align_legacy", args, geometry.LEGACY, 0)


@ROI_OPS.register("roi_align_legacy")
@dataclass(frozen=True)
class RoIAlignLegacy(RoIOperator):
    """The RoIAlign of the first public PyTorch Faster R-CNN (jwyang/faster-rcnn.pytorch)."""

    title = "RoIAlign (legacy)"

    #: 2 x 2 neighbours of a grid one larger, averaged or maximised as published, or the grid itself.
    pooling: Literal["avg", "max", "none"] = "avg"

    def build(self, output_size: int) -> RoIAlignLegacy:
        """
        Raises:
            ValueError: a side of 1, for which the published grid has no step.
        """
        if self.pooling == "none" and output_size < 2:
            raise ValueError("model.roi_op.pooling: none needs heads of pool_size 2 and more, got 1")
        return super().build(output_size)

    def pool(
        self, input: Maps, boxes: Maps, output_size: Size, spatial_scale: Scales, levels: Tensor | None = None
    ) -> Tensor:
        """As a call: [R, C, P, Q]; see :func:`roi_align_legacy`."""
        if self.pooling == "none":
            return roi_align_legacy(input, boxes, output_size, spatial_scale, levels=levels)
        height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
        grid = roi_align_legacy(input, boxes, (height + 1, width + 1), spatial_scale, levels=levels)
        reduce = functional.avg_pool2d if self.pooling == "avg" else functional.max_pool2d
        return reduce(grid, kernel_size=2, stride=1)

    def axis(
        self, low: Tensor, high: Tensor, scale: Scale, bins: int, length: Length = None
    ) -> geometry.Axis:
        """Samples of ``low`` to ``high`` [K] at points; see :class:`maskrcnn.layers.geometry.PointAxis`."""
        return replace(geometry.point_axis(low, high, scale, bins), pooled=self.pooling != "none")

    def words(self, hidden: Sequence[str] = ()) -> list[str]:
        """Options for people: ``max``, ``not pooled``."""
        return ["not pooled"] if self.pooling == "none" else super().words(hidden)


def RoIAlignAvg(  # noqa: N802
    aligned_height: int, aligned_width: int, spatial_scale: float | Sequence[float]
) -> RoIAlignLegacy:
    """The published name: the average of each 2 x 2 neighbourhood of an (h + 1, w + 1) grid, [K, C, h, w]."""
    return RoIAlignLegacy((int(aligned_height), int(aligned_width)), spatial_scale)


def RoIAlignMax(  # noqa: N802
    aligned_height: int, aligned_width: int, spatial_scale: float | Sequence[float]
) -> RoIAlignLegacy:
    """The published name: the maximum of each 2 x 2 neighbourhood of an (h + 1, w + 1) grid, [K, C, h, w]."""
    return RoIAlignLegacy((int(aligned_height), int(aligned_width)), spatial_scale, "max")
