"""Large-scale jitter (Ghiasi et al. 2021, "Simple Copy-Paste", section 3): scale, crop, pad to one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Side
from maskrcnn.data.interfaces import TRANSFORMS
from maskrcnn.data.transforms.moving import RENAMED, Resample, crop_to, pad_to, resize_to, round_side
from maskrcnn.errors import ConfigError
from maskrcnn.structures import RawSample

#: The nearest bytes to ImageNet's mean of R, G, B: after normalisation the padding is about 0, as in the
#: paper's release, which pads normalised images with 0.  (Detectron2 pads with 128.)
MEAN_PIXEL = (124, 116, 104)
Byte = Annotated[int, Range(0, 255)]
#: Factors of an image's sides.
Scale = Annotated[float, Range(above=0, most=64, why="images of that scale fill the memory")]


@TRANSFORMS.register("large_scale_jitter")
@dataclass(frozen=True)
class LargeScaleJitter(Config):
    """Scale to fit ``size`` times a factor drawn evenly from [min_scale, max_scale], then take a window of
    exactly ``size``: anywhere where the image is larger, padded on the right and below where it is smaller.

    The semantics are those of the paper's release (``resize_and_crop_image``) and of Detectron2's
    ``ResizeScale`` and ``FixedSizeCrop``; the offsets of the two axes are drawn apart, as the release does.
    Instances of which nothing is left are dropped; boxes that are cut shrink to what is left.
    """

    RENAMED: ClassVar[Mapping[str, str]] = RENAMED
    resizes_only: ClassVar[bool] = False

    #: (height, width) of the result, pixels (Ghiasi et al. 2021: 1024 x 1024).
    size: tuple[Side, Side] = (1024, 1024)
    #: Smallest factor on "fits into size" (ibid.: 0.1; their standard jitter: 0.8).
    min_scale: Scale = 0.1
    #: Largest factor (ibid.: 2.0; their standard jitter: 1.25).
    max_scale: Scale = 2.0
    #: R, G, B of the padding; default ImageNet's mean pixel, about 0 after normalisation (Detectron2: 128).
    pad_value: tuple[Byte, Byte, Byte] = MEAN_PIXEL
    #: linear: OpenCV's; area: averages when shrinking; antialias: smooths when shrinking, as PIL's bilinear.
    resample: Resample = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_scale > self.max_scale:
            raise ConfigError(
                f"min_scale {self.min_scale} must not be greater than max_scale {self.max_scale}"
            )

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        (height, width), (h, w) = self.size, sample.size
        factor = self.min_scale + (self.max_scale - self.min_scale) * rng.random()
        scale = factor * min(height / h, width / w)
        h, w = round_side(h * scale), round_side(w * scale)
        sample = resize_to(sample, h, w, self.resample)
        y0, x0 = (int(rng.integers(max(a - b, 0) + 1)) for a, b in ((h, height), (w, width)))
        sample = crop_to(sample, x0, y0, min(w, width), min(h, height), min_side=0.0)
        return pad_to(sample, height, width, self.pad_value)
