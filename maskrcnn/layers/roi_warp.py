"""RoIWarp (Dai et al. 2016, MNC; He et al. 2017, Table 2c): the box is quantised, its bins are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from maskrcnn.layers import geometry, ops
from maskrcnn.layers.arguments import check_choice, check_sampling_ratio, prepare
from maskrcnn.layers.operator import ROI_OPS, Length, Maps, RoIOperator, Scale, Scales, Size, sampling_words
from maskrcnn.layers.roi_align import Aggregation, SamplingRatio


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
