"""Image transforms: geometry moves boxes and masks with the image; all randomness is passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np

from maskrcnn.config import Config
from maskrcnn.config.ranges import Count, NotNegative, Share
from maskrcnn.data.interfaces import TRANSFORMS
from maskrcnn.data.transforms.jitter import LargeScaleJitter, LargeScaleJitterConfig
from maskrcnn.data.transforms.moving import apply_transforms, crop_to, move
from maskrcnn.data.transforms.resizing import (
    Resize,
    ResizeConfig,
    ResizeLongest,
    ResizeLongestConfig,
    ResizeShortestEdge,
    ResizeShortestEdgeConfig,
)
from maskrcnn.structures import RawSample

__all__ = [
    "ColorJitter",
    "ColorJitterConfig",
    "HorizontalFlip",
    "HorizontalFlipConfig",
    "LargeScaleJitter",
    "LargeScaleJitterConfig",
    "RandomCrop",
    "RandomCropConfig",
    "Resize",
    "ResizeConfig",
    "ResizeLongest",
    "ResizeLongestConfig",
    "ResizeShortestEdge",
    "ResizeShortestEdgeConfig",
    "Rotate90",
    "Rotate90Config",
    "VerticalFlip",
    "VerticalFlipConfig",
    "apply_transforms",
]


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right with probability ``p``."""

    p: float = 0.5

    @property
    def resizes_only(self) -> bool:
        """See ``registries.Transform``."""
        return self.p == 0

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        width = float(sample.size[1])
        return move(sample, cv2.flip(sample.image, 1), np.array([[-1, 0, width], [0, 1, 0]]))


@dataclass(frozen=True)
class VerticalFlip:
    """Mirror top and bottom with probability ``p``."""

    p: float = 0.5

    @property
    def resizes_only(self) -> bool:
        """See ``registries.Transform``."""
        return self.p == 0

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        height = float(sample.size[0])
        return move(sample, cv2.flip(sample.image, 0), np.array([[1, 0, 0], [0, -1, height]]))


@dataclass(frozen=True)
class Rotate90:
    """With probability ``p``, turn by 90, 180 or 270 degrees, each as likely."""

    p: float = 0.75

    @property
    def resizes_only(self) -> bool:
        """See ``registries.Transform``."""
        return self.p == 0

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        for _ in range(int(rng.integers(1, 4))):
            # Counter-clockwise: (x, y) -> (y, W - x).
            matrix = np.array([[0, 1, 0], [-1, 0, float(sample.size[1])]])
            sample = move(sample, cv2.rotate(sample.image, cv2.ROTATE_90_COUNTERCLOCKWISE), matrix)
        return sample


@TRANSFORMS.register("hflip")
@dataclass(frozen=True, kw_only=True)
class HorizontalFlipConfig(Config):
    """Mirror left and right."""

    #: Probability, 0 to 1.
    p: Share = 0.5

    def build(self) -> HorizontalFlip:
        return HorizontalFlip(self.p)


@TRANSFORMS.register("vflip")
@dataclass(frozen=True, kw_only=True)
class VerticalFlipConfig(Config):
    """Mirror top and bottom."""

    #: Probability, 0 to 1.
    p: Share = 0.5

    def build(self) -> VerticalFlip:
        return VerticalFlip(self.p)


@TRANSFORMS.register("rotate90")
@dataclass(frozen=True, kw_only=True)
class Rotate90Config(Config):
    """Turn by 90, 180 or 270 degrees."""

    #: Probability of a turn, 0 to 1; 0.75 makes all four directions as likely.
    p: Share = 0.75

    def build(self) -> Rotate90:
        return Rotate90(self.p)


@dataclass(frozen=True)
class RandomCrop:
    """A window of ``height`` x ``width`` pixels (at most the image), anywhere, with probability ``p``."""

    height: int
    width: int
    p: float = 1.0
    min_side: float = 1.0

    @property
    def resizes_only(self) -> bool:
        """See ``registries.Transform``."""
        return self.p == 0

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        h, w = sample.size
        height, width = min(self.height, h), min(self.width, w)
        y0, x0 = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
        return crop_to(sample, x0, y0, width, height, self.min_side)


@TRANSFORMS.register("random_crop")
@dataclass(frozen=True, kw_only=True)
class RandomCropConfig(Config):
    """A random window; boxes that it cuts shrink to what is left of their masks."""

    #: Pixels; a smaller image is taken whole.
    height: Count
    #: Pixels.
    width: Count
    #: Probability of a crop, 0 to 1.
    p: Share = 1.0
    #: Cut instances with a shorter side than this are dropped, pixels.
    min_side: NotNegative = 1.0

    def build(self) -> RandomCrop:
        return RandomCrop(self.height, self.width, self.p, self.min_side)


# ---- colour ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation times factors drawn evenly from [1 - a, 1 + a], in this order.

    Contrast scales about the image's mean gray, saturation about each pixel's gray (ITU-R 601 weights).
    """

    resizes_only: ClassVar[bool] = True
    brightness: float
    contrast: float
    saturation: float

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        draws = (2 * rng.random(3) - 1) * (self.brightness, self.contrast, self.saturation) + 1
        brightness, contrast, saturation = draws.astype(np.float32)
        image = sample.image.astype(np.float32) * brightness
        gray = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        mean = gray.mean()
        image = (image - mean) * contrast + mean
        gray = ((gray - mean) * contrast + mean)[:, :, None]
        image = np.clip((image - gray) * saturation + gray, 0, 255)
        if sample.image.dtype == np.uint8:
            image = (image + 0.5).astype(np.uint8)
        return replace(sample, image=image)


@TRANSFORMS.register("color_jitter")
@dataclass(frozen=True, kw_only=True)
class ColorJitterConfig(Config):
    """Random brightness, contrast and saturation; geometry stays."""

    #: Factor in [1 - a, 1 + a], a in [0, 1].
    brightness: Share = 0.2
    #: As brightness, about the image's mean.
    contrast: Share = 0.2
    #: As brightness, about gray.
    saturation: Share = 0.2

    def build(self) -> ColorJitter:
        return ColorJitter(self.brightness, self.contrast, self.saturation)
