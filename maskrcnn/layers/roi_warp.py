"""RoIWarp (Dai et al. 2016, MNC; He et al. 2017, Table 2c): the box is quantised, its bins are not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from maskrcnn.layers import ops, reference
from maskrcnn.layers.arguments import check_choice, check_sampling_ratio, prepare
from maskrcnn.layers.roi_align import Aggregation


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
    samples and bins are then those of :func:`maskrcnn.layers.roi_align`, whose arguments, return value and
    errors these are.  There is no gradient for the coordinates.
    """
    args = prepare("roi_warp", input, boxes, output_size, spatial_scale, levels)
    check_choice("roi_warp", "aggregation", aggregation, ("avg", "max"))
    ratio = check_sampling_ratio("roi_warp", sampling_ratio)
    return ops.sampled("roi_warp", args, reference.WARP, ratio, aggregation, "grid", 0)


class RoIWarp(nn.Module):
    """:func:`roi_warp` with its constants held."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float | Sequence[float],
        sampling_ratio: int = -1,
        *,
        aggregation: Aggregation = "avg",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aggregation: Aggregation = aggregation

    def forward(
        self, input: Tensor | Sequence[Tensor], rois: Tensor | Sequence[Tensor], levels: Tensor | None = None
    ) -> Tensor:
        """Features and RoIs as in :func:`roi_warp` -> [K, C, P, Q]."""
        return roi_warp(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            aggregation=self.aggregation,
            levels=levels,
        )

    def extra_repr(self) -> str:
        """The constants, as torch prints a module."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aggregation={self.aggregation}"
        )
