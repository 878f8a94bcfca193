"""The RoIAlign of the first public PyTorch Faster R-CNN (jwyang/faster-rcnn.pytorch), for older checkpoints.

One bilinear sample a point of an (h, w) grid laid over the box corner to corner.  Its published CPU backward
scatters a gradient only when the point lies outside the map (an ``else`` is missing) and its Python wrapper
asserts CUDA; ours is the true gradient of the forward pass on both devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor
from torch.nn import functional

from maskrcnn.layers import geometry, ops
from maskrcnn.layers.arguments import prepare
from maskrcnn.layers.operator import ROI_OPS, Length, Maps, RoIOperator, Scale, Scales, Size


def roi_align_legacy(
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    *,
    levels: Tensor | None = None,
) -> Tensor:
    """Sample each RoI at an (h, w) grid of points whose step is max((x2 - x1) s + 1, 0) / (w - 1) cells.

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
