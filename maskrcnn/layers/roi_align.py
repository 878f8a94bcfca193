"""RoIAlign (He et al. 2017, section 3): bilinear samples at unquantised positions, averaged or maximised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from torch import Tensor

from maskrcnn.config import Range
from maskrcnn.layers import ops
from maskrcnn.layers.arguments import check_choice, check_sampling_ratio, check_seed, prepare
from maskrcnn.layers.geometry import ALIGNED, PLAIN, Axis, Geometry, sampled_axis
from maskrcnn.layers.operator import ROI_OPS, Length, Maps, RoIOperator, Scale, Scales, Size, sampling_words

Aggregation = Literal["avg", "max"]
Samples = Literal["grid", "random"]
SamplingRatio = Annotated[int, Range(most=4096, why="samples a bin take the time of their number's square")]


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
    which = ALIGNED if aligned else PLAIN
    return ops.sampled("roi_align", args, which, ratio, aggregation, samples, seed)


@ROI_OPS.register("roi_align")
@dataclass(frozen=True, init=False)
class RoIAlign(RoIOperator):
    """RoIAlign; a model's defaults are Detectron2's ("ROIAlignV2").

    With a scale, as in ``RoIAlign(7, 1 / 16, 2)``, the constructor is torchvision's plus keywords: there
    ``aligned`` is false if not given.
    """

    title = "RoIAlign"

    #: Samples a bin along each axis; 0 or less = adaptive, ceil(bin side) (Detectron2: 0, torchvision: 2).
    sampling_ratio: SamplingRatio = 0
    #: Subtract half a cell, so that cell centres lie at 0.5 (Detectron2: true, torchvision: false).
    aligned: bool = True
    #: Average or maximum of a bin's samples (He et al. 2017, table 2c compares them).
    aggregation: Aggregation = "avg"
    #: Sample positions: a regular grid, or drawn at random in each bin.
    samples: Samples = "grid"
    #: Where random positions are drawn from, 0 .. 2^32 - 1.
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    #: Take the box's last pixel as its far corner, not that pixel's end: a pixel less (maskrcnn-benchmark).
    inclusive: bool = False

    def __init__(
        self,
        output_size: Size | None = None,
        spatial_scale: Scales | None = None,
        sampling_ratio: int = 0,
        aligned: bool | None = None,
        *,
        aggregation: Aggregation = "avg",
        samples: Samples = "grid",
        seed: int = 0,
        inclusive: bool = False,
    ) -> None:
        super().__init__(output_size, spatial_scale)
        aligned = spatial_scale is None if aligned is None else aligned
        options = {"sampling_ratio": sampling_ratio, "aligned": aligned, "aggregation": aggregation}
        for name, value in {**options, "samples": samples, "seed": seed, "inclusive": inclusive}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def pool(
        self, input: Maps, boxes: Maps, output_size: Size, spatial_scale: Scales, levels: Tensor | None = None
    ) -> Tensor:
        """As a call: [R, C, P, Q]; see :func:`roi_align`."""
        if self.inclusive and isinstance(boxes, Tensor):
            boxes = boxes - boxes.new_tensor([0, 0, 0, 1, 1])
        elif self.inclusive:
            boxes = [b - b.new_tensor([0, 0, 1, 1]) for b in boxes]
        return roi_align(
            input,
            boxes,
            output_size,
            spatial_scale,
            self.sampling_ratio,
            self.aligned,
            aggregation=self.aggregation,
            samples=self.samples,
            seed=self.seed,
            levels=levels,
        )

    def axis(self, low: Tensor, high: Tensor, scale: Scale, bins: int, length: Length = None) -> Axis:
        """Samples between ``low`` and ``high`` [K]; see :class:`maskrcnn.layers.geometry.SampledAxis`."""
        which = ALIGNED if self.aligned else PLAIN
        high, random = high - 1 if self.inclusive else high, self.samples == "random"
        return sampled_axis(low, high, scale, bins, which, self.sampling_ratio, random)

    def geometry(
        self, boxes: Tensor, scale: Scale, output_size: Sequence[int], map_size: Sequence[Length]
    ) -> Geometry:
        """Both axes of ``boxes`` [K, 4], and the seed of random samples."""
        where = super().geometry(boxes, scale, output_size, map_size)
        return replace(where, seed=self.seed) if self.samples == "random" else where

    def words(self, hidden: Sequence[str] = ()) -> list[str]:
        """Options for people: ``2×2 random samples``, ``not aligned``."""
        random = self.samples == "random"
        hidden = (*hidden, "sampling_ratio", "samples", *(() if random else ("seed",)))
        return sampling_words(self.sampling_ratio, random) + super().words(hidden)
