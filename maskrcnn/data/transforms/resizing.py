"""Transforms that scale the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from maskrcnn.config import Config
from maskrcnn.config.ranges import Side
from maskrcnn.data.interfaces import TRANSFORMS
from maskrcnn.data.transforms.moving import RENAMED, Resample, resize_to, round_side
from maskrcnn.errors import ConfigError
from maskrcnn.structures import RawSample


class _Resize(Config):
    """Scales the image, and says so."""

    RENAMED: ClassVar[Mapping[str, str]] = RENAMED
    resizes_only: ClassVar[bool] = True


@TRANSFORMS.register("resize_shortest_edge")
@dataclass(frozen=True)
class ResizeShortestEdge(_Resize):
    """Scale the shorter side to one of several lengths (multi-scale training), the longer up to a cap.

    The rounding is Detectron2's (``ResizeShortestEdge.get_output_shape``): the scale is applied in floating
    point, capped by the longer side, and both sides are rounded half up; with ``rounding="floor"`` they are
    cut off, as torchvision's detection models do.
    """

    #: Lengths to draw from, pixels; a range [first, last] with ``sample: range``.  FPN's: 800.
    min_sizes: tuple[Side, ...] = (800,)
    #: The longer side never exceeds this, pixels.  FPN's: 1333.
    max_size: Side = 1333
    #: choice: one of min_sizes; range: any integer from the first to the last.
    sample: Literal["choice", "range"] = "choice"
    #: linear: OpenCV's; area: averages when shrinking; antialias: smooths when shrinking, as PIL's bilinear.
    resample: Resample = "linear"
    #: nearest as Detectron2, floor as torchvision.
    rounding: Literal["nearest", "floor"] = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_sizes:
            raise ConfigError("min_sizes of resize_shortest_edge must have at least one length")
        if self.sample == "range" and (len(self.min_sizes) != 2 or self.min_sizes[0] > self.min_sizes[1]):
            raise ConfigError("resize_shortest_edge with sample: range needs min_sizes: [smallest, largest]")

    def output_size(self, height: int, width: int, shortest: int) -> tuple[int, int]:
        """(height, width) after scaling to ``shortest``, in pixels."""
        if self.rounding == "floor":
            scale = min(shortest / min(height, width), self.max_size / max(height, width))
            return max(int(height * scale), 1), max(int(width * scale), 1)
        scale = shortest / min(height, width)
        h, w = (float(shortest), scale * width) if height < width else (scale * height, float(shortest))
        if max(h, w) > self.max_size:
            scale = self.max_size / max(h, w)
            h, w = h * scale, w * scale
        return round_side(h), round_side(w)

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if self.sample == "range":
            shortest = int(rng.integers(self.min_sizes[0], self.min_sizes[-1] + 1))
        else:
            shortest = self.min_sizes[int(rng.integers(len(self.min_sizes)))]
        return resize_to(sample, *self.output_size(*sample.size, shortest), self.resample)


@TRANSFORMS.register("resize_longest")
@dataclass(frozen=True)
class ResizeLongest(_Resize):
    """Scale the longer side to a length."""

    #: Length of the longer side, pixels.
    size: Side
    #: linear: OpenCV's; area: averages when shrinking; antialias: smooths when shrinking, as PIL's bilinear.
    resample: Resample = "linear"

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        h, w = sample.size
        scale = self.size / max(h, w)
        return resize_to(sample, round_side(h * scale), round_side(w * scale), self.resample)


@TRANSFORMS.register("resize")
@dataclass(frozen=True)
class Resize(_Resize):
    """Scale to one size whatever the aspect ratio."""

    #: Pixels.
    height: Side
    #: Pixels.
    width: Side
    #: linear: OpenCV's; area: averages when shrinking; antialias: smooths when shrinking, as PIL's bilinear.
    resample: Resample = "linear"

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        return resize_to(sample, self.height, self.width, self.resample)
