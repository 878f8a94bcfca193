"""Transforms of values alone, of any number of channels: each is a function of the pixel values and ``rng``.

Values are in 0..255, bytes or float32; what leaves that range is cut off, and bytes are rounded half up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np

from maskrcnn.config import Range
from maskrcnn.config.ranges import NotNegative, Positive, Share
from maskrcnn.data.interfaces import TRANSFORMS
from maskrcnn.data.transforms.affine import check_ends
from maskrcnn.data.transforms.basic import Sometimes, gray_of
from maskrcnn.data.transforms.moving import by_fours
from maskrcnn.structures import RawSample
from maskrcnn.structures.samples import Image

#: Pixels; a wider blur leaves nothing of an object.
Sigma = Annotated[float, Range(0, 100, "nothing is left of an image that is blurred so far")]


class _Values(Sometimes):
    """Changes pixel values, float32 [..., C]; nothing moves."""

    @property
    def resizes_only(self) -> bool:
        """See :class:`maskrcnn.data.interfaces.Transform`."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("factor", "gamma", "sigma", "std"):
            if hasattr(self, name):
                check_ends(name, getattr(self, name))

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        return replace(sample, image=_as(sample.image, self.change(sample.image.astype(np.float32), rng)))

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        """float32 [H, W, C] -> the same."""
        raise NotImplementedError


class _Curve(_Values):
    """A function of each value by itself: bytes look it up in a table."""

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        image, curve = sample.image, self.curve(sample.image, rng)
        if image.dtype == np.uint8:
            table = _as(image, curve(np.arange(256, dtype=np.float32)))
            return replace(sample, image=table[image])
        return replace(sample, image=_as(image, curve(image)))

    def curve(self, image: Image, rng: np.random.Generator) -> Callable[[Image], Image]:
        """float32 values of any shape -> the same."""
        raise NotImplementedError


def _as(image: Image, values: Image) -> Image:
    """``values`` in the type of ``image``."""
    values = np.clip(values, 0, 255)
    return (values + 0.5).astype(np.uint8) if image.dtype == np.uint8 else values.astype(np.float32)


def _between(ends: tuple[float, float], rng: np.random.Generator) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(rng.random())


@TRANSFORMS.register("brightness")
@dataclass(frozen=True)
class Brightness(_Curve):
    """All values times one factor."""

    #: Least and most.
    factor: tuple[NotNegative, NotNegative] = (0.8, 1.2)
    #: Probability, 0 to 1.
    p: Share = 1.0

    def curve(self, image: Image, rng: np.random.Generator) -> Callable[[Image], Image]:
        factor = np.float32(_between(self.factor, rng))
        return lambda values: values * factor


@TRANSFORMS.register("contrast")
@dataclass(frozen=True)
class Contrast(_Curve):
    """Distances from the image's mean value times one factor."""

    #: Least and most.
    factor: tuple[NotNegative, NotNegative] = (0.8, 1.2)
    #: Probability, 0 to 1.
    p: Share = 1.0

    def curve(self, image: Image, rng: np.random.Generator) -> Callable[[Image], Image]:
        factor, mean = np.float32(_between(self.factor, rng)), np.float32(image.mean(dtype=np.float64))
        return lambda values: (values - mean) * factor + mean


@TRANSFORMS.register("gamma")
@dataclass(frozen=True)
class Gamma(_Curve):
    """255 (x / 255) ^ gamma: dark parts brighter below 1, darker above it."""

    #: The exponent, > 0: least and most.
    gamma: tuple[Positive, Positive] = (0.7, 1.5)
    #: Probability, 0 to 1.
    p: Share = 1.0

    def curve(self, image: Image, rng: np.random.Generator) -> Callable[[Image], Image]:
        gamma = np.float32(_between(self.gamma, rng))
        return lambda values: 255 * (np.clip(values, 0, 255) / np.float32(255)) ** gamma


@TRANSFORMS.register("invert")
@dataclass(frozen=True)
class Invert(_Curve):
    """255 - x: bright objects on dark ground become dark ones on bright ground."""

    #: Probability, 0 to 1.
    p: Share = 0.5

    def curve(self, image: Image, rng: np.random.Generator) -> Callable[[Image], Image]:
        return lambda values: 255 - values


@TRANSFORMS.register("gray")
@dataclass(frozen=True)
class Gray(_Values):
    """All channels become their gray, see :func:`maskrcnn.data.transforms.basic.gray_of`."""

    #: Probability, 0 to 1.
    p: Share = 0.1

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return np.repeat(gray_of(image)[..., None], image.shape[2], axis=2)


@TRANSFORMS.register("blur")
@dataclass(frozen=True)
class Blur(_Values):
    """A Gaussian's."""

    #: Standard deviation, pixels, 0 to 100: least and most.
    sigma: tuple[Sigma, Sigma] = (0.1, 1.5)
    #: Probability, 0 to 1.
    p: Share = 0.2

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        sigma = _between(self.sigma, rng)
        if sigma == 0:
            return image
        blurred = by_fours(image, lambda part, _: cv2.GaussianBlur(part, (0, 0), sigma))
        return blurred.reshape(image.shape)


@TRANSFORMS.register("noise")
@dataclass(frozen=True)
class Noise(_Values):
    """Independent Gaussian noise of each value."""

    #: Standard deviation in 0..255: least and most.
    std: tuple[NotNegative, NotNegative] = (0.0, 10.0)
    #: Probability, 0 to 1.
    p: Share = 0.2

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        std = np.float32(_between(self.std, rng))
        noisy: Image = image + std * rng.standard_normal(image.shape, dtype=np.float32)
        return noisy
