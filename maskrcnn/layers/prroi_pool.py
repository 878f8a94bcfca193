"""Precise RoI pooling (Jiang et al. 2018, IoU-Net): the exact mean of the bilinear surface over each bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from maskrcnn.layers import geometry, ops
from maskrcnn.layers.arguments import prepare
from maskrcnn.layers.operator import ROI_OPS, Length, Maps, RoIOperator, Scale, Scales, Size


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
