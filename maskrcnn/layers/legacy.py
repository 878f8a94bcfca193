"""The RoIAlign of the first public PyTorch Faster R-CNN (jwyang/faster-rcnn.pytorch), for older checkpoints.

One bilinear sample a point of an (h, w) grid laid over the box corner to corner.  Its published CPU backward
scatters a gradient only when the point lies outside the map (an ``else`` is missing) and its Python wrapper
asserts CUDA; ours is the true gradient of the forward pass on both devices.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from maskrcnn.layers import ops, reference
from maskrcnn.layers.arguments import prepare


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

    Arguments and return value as :func:`maskrcnn.layers.roi_align`.

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
    return ops.average("roi_align_legacy", args, reference.LEGACY, 0)


class _LegacyPooled(nn.Module):
    """roi_align_legacy on an (h + 1, w + 1) grid; subclasses reduce 2 x 2 neighbours at stride 1."""

    def __init__(
        self, aligned_height: int, aligned_width: int, spatial_scale: float | Sequence[float]
    ) -> None:
        super().__init__()
        self.aligned_height = int(aligned_height)
        self.aligned_width = int(aligned_width)
        self.spatial_scale = spatial_scale

    def _grid(
        self, features: Tensor | Sequence[Tensor], rois: Tensor | Sequence[Tensor], levels: Tensor | None
    ) -> Tensor:
        size = (self.aligned_height + 1, self.aligned_width + 1)
        return roi_align_legacy(features, rois, size, self.spatial_scale, levels=levels)

    def extra_repr(self) -> str:
        """The constants, as torch prints a module."""
        return (
            f"aligned_height={self.aligned_height}, aligned_width={self.aligned_width}, "
            f"spatial_scale={self.spatial_scale}"
        )


class RoIAlignAvg(_LegacyPooled):
    """The average of each 2 x 2 neighbourhood of an (h + 1, w + 1) legacy grid: [K, C, h, w]."""

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        rois: Tensor | Sequence[Tensor],
        levels: Tensor | None = None,
    ) -> Tensor:
        """Features and RoIs as in :func:`roi_align_legacy` -> [K, C, h, w]."""
        grid = self._grid(features, rois, levels)
        return functional.avg_pool2d(grid, kernel_size=2, stride=1)


class RoIAlignMax(_LegacyPooled):
    """The maximum of each 2 x 2 neighbourhood of an (h + 1, w + 1) legacy grid: [K, C, h, w]."""

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        rois: Tensor | Sequence[Tensor],
        levels: Tensor | None = None,
    ) -> Tensor:
        """Features and RoIs as in :func:`roi_align_legacy` -> [K, C, h, w]."""
        grid = self._grid(features, rois, levels)
        return functional.max_pool2d(grid, kernel_size=2, stride=1)
