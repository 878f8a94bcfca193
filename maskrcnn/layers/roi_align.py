"""RoIAlign (He et al. 2017, section 3): bilinear samples at unquantised positions, averaged or maximised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from maskrcnn.layers import ops, reference
from maskrcnn.layers.arguments import check_choice, check_sampling_ratio, check_seed, prepare

Aggregation = Literal["avg", "max"]
Samples = Literal["grid", "random"]


def roi_align(
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    aggregation: Aggregation = "avg",
    samples: Samples = "grid",
    seed: int = 0,
    levels: Tensor | None = None,
) -> Tensor:
    """Pool each RoI to a fixed grid without quantising anything.

    The positional arguments are those of ``torchvision.ops.roi_align``, with the same numbers.

    Args:
        input: features [N, C, H, W] in float16, bfloat16, float32 or float64, contiguous or channels_last;
            or a list of pyramid levels [N, C, Hl, Wl], all pooled in one call.
        boxes: [K, 5] rows (batch index, x1, y1, x2, y2), or a list with one [L, 4] xyxy tensor an image; in
            image coordinates.  Kept in float32 or better whatever the features' type.
        output_size: bins (P, Q), or one integer for both.
        spatial_scale: feature cells per image pixel (1/16 at stride 16); a list of one a level for a list.
        sampling_ratio: samples a bin and axis; 0 or less takes ceil(size in cells / bins).
        aligned: shift by half a cell, so that cell centres lie at i + 0.5 (Detectron2's form).  Without it
            boxes are also at least one cell wide (the original form).
        aggregation: ``avg``, or ``max`` of the samples (paper, Table 2c).
        samples: ``grid``: regularly spaced; ``random``: as many uniform positions in each bin, drawn from
            ``seed`` (adaptive counts then stop at 64 a side).
        seed: 0 .. 2^32 - 1; the same seed gives the same positions on every device.
        levels: int64 [K], the level of each RoI; needed with several levels.

    Returns:
        [K, C, P, Q] in the features' type and in the memory layout of the (first) input.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, type or device.
        RuntimeError: on the CPU, a batch index or level out of range or a coordinate that is NaN or infinite
            (on CUDA such a RoI gives 0 and no gradient unless MASKRCNN_CHECK=1).
    """
    args = prepare("roi_align", input, boxes, output_size, spatial_scale, levels)
    check_choice("roi_align", "aggregation", aggregation, ("avg", "max"))
    check_choice("roi_align", "samples", samples, ("grid", "random"))
    check_seed("roi_align", seed)
    ratio = check_sampling_ratio("roi_align", sampling_ratio)
    geometry = reference.ALIGNED if aligned else reference.PLAIN
    return ops.sampled("roi_align", args, geometry, ratio, aggregation, samples, seed)


class RoIAlign(nn.Module):
    """:func:`roi_align` with its constants held; the constructor is torchvision's plus keywords."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float | Sequence[float],
        sampling_ratio: int,
        aligned: bool = False,
        *,
        aggregation: Aggregation = "avg",
        samples: Samples = "grid",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.aggregation: Aggregation = aggregation
        self.samples: Samples = samples
        self.seed = seed

    def forward(
        self, input: Tensor | Sequence[Tensor], rois: Tensor | Sequence[Tensor], levels: Tensor | None = None
    ) -> Tensor:
        """Features and RoIs as in :func:`roi_align` -> [K, C, P, Q]."""
        return roi_align(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            aggregation=self.aggregation,
            samples=self.samples,
            seed=self.seed,
            levels=levels,
        )

    def extra_repr(self) -> str:
        """The constants, as torch prints a module."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, "
            f"aggregation={self.aggregation}, samples={self.samples}"
        )
