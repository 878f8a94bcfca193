"""Image transforms: geometry moves boxes and masks with the image; all randomness is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np

from maskrcnn.config import Config
from maskrcnn.config.ranges import Count, NotNegative, Share
from maskrcnn.data.interfaces import TRANSFORMS
from maskrcnn.data.transforms.moving import by_fours, crop_to, move
from maskrcnn.structures import RawSample
from maskrcnn.structures.samples import Image


class Sometimes(Config):
    """Done with probability ``p``, else the sample stays as it is."""

    p: float

    @property
    def resizes_only(self) -> bool:
        """See :class:`maskrcnn.data.interfaces.Transform`."""
        return self.p == 0

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        return sample if rng.random() >= self.p else self.always(sample, rng)

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        raise NotImplementedError


@TRANSFORMS.register("hflip")
@dataclass(frozen=True)
class HorizontalFlip(Sometimes):
    """Mirror left and right."""

    #: Probability, 0 to 1.
    p: Share = 0.5

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        width = float(sample.size[1])
        return move(sample, _flipped(sample.image, 1), np.array([[-1, 0, width], [0, 1, 0]]))


@TRANSFORMS.register("vflip")
@dataclass(frozen=True)
class VerticalFlip(Sometimes):
    """Mirror top and bottom."""

    #: Probability, 0 to 1.
    p: Share = 0.5

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        height = float(sample.size[0])
        return move(sample, _flipped(sample.image, 0), np.array([[1, 0, 0], [0, -1, height]]))


@TRANSFORMS.register("rotate90")
@dataclass(frozen=True)
class Rotate90(Sometimes):
    """Turn by 90, 180 or 270 degrees, each as likely."""

    #: Probability of a turn, 0 to 1; 0.75 makes all four directions as likely.
    p: Share = 0.75

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        for _ in range(int(rng.integers(1, 4))):
            # Counter-clockwise: (x, y) -> (y, W - x).
            matrix = np.array([[0, 1, 0], [-1, 0, float(sample.size[1])]])
            sample = move(sample, by_fours(sample.image, _turned), matrix)
        return sample


@TRANSFORMS.register("random_crop")
@dataclass(frozen=True)
class RandomCrop(Sometimes):
    """A window anywhere; boxes that it cuts shrink to what is left of their masks."""

    #: Pixels; a smaller image is taken whole.
    height: Count
    #: Pixels.
    width: Count
    #: Probability of a crop, 0 to 1.
    p: Share = 1.0
    #: Cut instances with a shorter side than this are dropped, pixels.
    min_side: NotNegative = 1.0

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        h, w = sample.size
        height, width = min(self.height, h), min(self.width, w)
        y0, x0 = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
        return crop_to(sample, x0, y0, width, height, self.min_side)


@TRANSFORMS.register("color_jitter")
@dataclass(frozen=True)
class ColorJitter(Config):
    """Brightness, contrast and saturation times factors drawn evenly from [1 - a, 1 + a], in this order.

    Contrast scales about the image's mean gray, saturation about each pixel's gray (see ``gray_of``).
    """

    resizes_only: ClassVar[bool] = True

    #: Factor in [1 - a, 1 + a], a in [0, 1].
    brightness: Share = 0.2
    #: As brightness, about the image's mean.
    contrast: Share = 0.2
    #: As brightness, about gray.
    saturation: Share = 0.2

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        draws = (2 * rng.random(3) - 1) * (self.brightness, self.contrast, self.saturation) + 1
        brightness, contrast, saturation = draws.astype(np.float32)
        image = sample.image.astype(np.float32) * brightness
        gray = gray_of(image)
        mean = gray.mean()
        image = (image - mean) * contrast + mean
        gray = ((gray - mean) * contrast + mean)[:, :, None]
        image = np.clip((image - gray) * saturation + gray, 0, 255)
        if sample.image.dtype == np.uint8:
            image = (image + 0.5).astype(np.uint8)
        return replace(sample, image=image)


def _turned(image: Image, _: Sequence[float]) -> Image:
    return cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)


def _flipped(image: Image, axis: int) -> Image:
    return by_fours(image, lambda part, _: cv2.flip(part, axis))


def gray_of(image: Image) -> Image:
    """float32 [H, W, C] -> [H, W]: ITU-R 601's weights of R, G and B; of other channels the mean."""
    if image.shape[2] == 3:
        gray: Image = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return gray
    return np.asarray(image.mean(axis=2, dtype=np.float32))
