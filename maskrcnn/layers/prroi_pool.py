"""Precise RoI pooling (Jiang et al. 2018, IoU-Net): the exact mean of the bilinear surface over each bin."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from maskrcnn.layers import ops, reference
from maskrcnn.layers.arguments import prepare


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

    Arguments, return value and errors as :func:`maskrcnn.layers.roi_align`.
    """
    args = prepare("prroi_pool", input, boxes, output_size, spatial_scale, levels)
    return ops.average("prroi_pool", args, reference.PRECISE, 0)


class PrRoIPool(nn.Module):
    """:func:`prroi_pool` with its constants held."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float | Sequence[float]) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(
        self, input: Tensor | Sequence[Tensor], rois: Tensor | Sequence[Tensor], levels: Tensor | None = None
    ) -> Tensor:
        """Features and RoIs as in :func:`prroi_pool` -> [K, C, P, Q]."""
        return prroi_pool(input, rois, self.output_size, self.spatial_scale, levels=levels)

    def extra_repr(self) -> str:
        """The constants, as torch prints a module."""
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"
