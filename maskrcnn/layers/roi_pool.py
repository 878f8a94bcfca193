"""RoIPool (Girshick 2015): the maximum over bins whose edges are quantised to whole cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from maskrcnn.layers import ops
from maskrcnn.layers.arguments import check_choice, prepare
from maskrcnn.layers.geometry import Axis, Bins, Rounding, cell_axis
from maskrcnn.layers.operator import ROI_OPS, Length, Maps, RoIOperator, Scale, Scales, Size


def roi_pool(
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    *,
    rounding: Rounding = "round",
    bins: Bins = "overlap",
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
    rounding: Rounding = field(default="round", kw_only=True)
    #: Bins: overlap (Caffe, torchvision), partition or truncate; see ``maskrcnn.layers.roi_pool``.
    bins: Bins = field(default="overlap", kw_only=True)

    def pool(
        self, input: Maps, boxes: Maps, output_size: Size, spatial_scale: Scales, levels: Tensor | None = None
    ) -> Tensor:
        """As a call: [R, C, P, Q]; see :func:`roi_pool`."""
        return roi_pool(
            input, boxes, output_size, spatial_scale, rounding=self.rounding, bins=self.bins, levels=levels
        )

    def axis(self, low: Tensor, high: Tensor, scale: Scale, bins: int, length: Length = None) -> Axis:
        """Whole cells of ``low`` to ``high`` [K]; see :class:`maskrcnn.layers.geometry.CellAxis`."""
        return cell_axis(low, high, scale, bins, self.rounding, self.bins, length)
