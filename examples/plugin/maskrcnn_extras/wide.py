"""An RoI operator: RoIAlign of a box enlarged about its middle, so that a head sees what is around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from maskrcnn.config import Range
from maskrcnn.layers import ROI_OPS, RoIOperator, roi_align
from maskrcnn.layers.geometry import ALIGNED, sampled_axis


@ROI_OPS.register("wide_align")
@dataclass(frozen=True)
class WideAlign(RoIOperator):
    """2 x 2 samples a bin; with ``axis`` it can be drawn and measured: maskrcnn explain-roi."""

    #: How much wider than the box, from 1.
    factor: Annotated[float, Range(1, 8)] = 1.25

    def pool(
        self, input: Any, boxes: Tensor, output_size: Any, spatial_scale: Any, levels: Any = None
    ) -> Tensor:
        """As :class:`maskrcnn.layers.RoIOperator`: boxes [R, 5], the image's index and xyxy."""
        index, low, high = boxes.split((1, 2, 2), dim=1)
        rois = torch.cat((index, *self._wider(low, high)), dim=1)
        return roi_align(input, rois, output_size, spatial_scale, 2, True, levels=levels)

    def axis(self, low: float, high: float, scale: float, bins: int, length: int | None = None) -> Any:
        """What it reads along one axis."""
        return sampled_axis(*self._wider(low, high), scale, bins, ALIGNED, 2)

    def _wider(self, low: Any, high: Any) -> tuple[Any, Any]:
        more = (high - low) * (self.factor - 1) / 2
        return low - more, high + more
