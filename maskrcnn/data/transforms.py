"""Image transforms: geometry moves boxes and masks with the image, exactly; all randomness is passed in.

Frame convention: an image of W pixels covers [0, W); scaling by W2 / W maps x to x W2 / W, mirroring maps
x to W - x, so a box and the pixels under it never part (no half-pixel drift).

Legend: H, W = height and width of the frame, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data.images import Image
from maskrcnn.data.registries import TRANSFORMS, RawSample, Transform
from maskrcnn.errors import ConfigError
from maskrcnn.structures import clip_boxes

#: ``linear`` reads the 4 nearest pixels (fast; aliases below half size), ``area`` averages when shrinking.
Interpolation: TypeAlias = Literal["linear", "area"]


def apply_transforms(
    transforms: Sequence[Transform], sample: RawSample, rng: np.random.Generator
) -> RawSample:
    """One after the other."""
    for transform in transforms:
        sample = transform(sample, rng)
    return sample


def resize_to(sample: RawSample, height: int, width: int, interpolation: Interpolation) -> RawSample:
    """The sample at ``height`` x ``width`` pixels; each axis by its own exact ratio."""
    h, w = sample.size
    if (h, w) == (height, width):
        return sample
    shrinks = height < h and width < w
    mode = cv2.INTER_AREA if interpolation == "area" and shrinks else cv2.INTER_LINEAR
    image = cv2.resize(sample.image, (width, height), interpolation=mode)
    return _move(sample, image, np.array([[width / w, 0, 0], [0, height / h, 0]]))


def crop_to(sample: RawSample, x0: int, y0: int, width: int, height: int, min_side: float) -> RawSample:
    """The window of ``width`` x ``height`` pixels at (x0, y0), which must lie inside the image.

    Boxes that the window cuts become the tight box of what is left of their mask (of the box, where there
    are no masks); instances with a side below ``min_side`` pixels are dropped.
    """
    image = sample.image[y0 : y0 + height, x0 : x0 + width]
    moved = _move(sample, image, np.array([[1, 0, -x0], [0, 1, -y0]], dtype=np.float64))
    targets = moved.targets
    boxes = clip_boxes(targets.boxes, height, width)
    cut = (boxes != targets.boxes).any(1)
    if targets.masks is not None and cut.any():
        rows = cut.nonzero()[:, 0]
        boxes[rows] = targets.masks.select(rows.tolist()).boxes()
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = ~cut | ((sides >= min_side) & (sides > 0)).all(1)
    return replace(moved, targets=replace(targets, boxes=boxes).select(keep))


def _move(sample: RawSample, image: Image, matrix: npt.NDArray[np.float64]) -> RawSample:
    """``image`` in place of the old one, boxes and masks through ``matrix`` [2, 3]."""
    targets = sample.targets
    m = torch.from_numpy(matrix)
    corners = targets.boxes.double().view(-1, 2, 2) @ m[:, :2].T + m[:, 2]
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1).float()
    height, width = image.shape[:2]
    masks = None if targets.masks is None else targets.masks.transform(matrix, height, width)
    return replace(sample, image=image, targets=replace(targets, boxes=boxes, masks=masks))


def _round(value: float) -> int:
    return max(int(value + 0.5), 1)


# ---- sizes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResizeShortestEdge:
    """Scale so that the shorter side has a length drawn from ``min_sizes``, the longer at most ``max_size``.

    The rounding is Detectron2's (``ResizeShortestEdge.get_output_shape``): the scale is applied in floating
    point, capped by the longer side, and both sides are rounded half up; with ``rounding="floor"`` they are
    cut off, as torchvision's detection models do.
    """

    min_sizes: tuple[int, ...]
    max_size: int
    sample_range: bool = False
    interpolation: Interpolation = "linear"
    rounding: Literal["nearest", "floor"] = "nearest"

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
        return _round(h), _round(w)

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if self.sample_range:
            shortest = int(rng.integers(self.min_sizes[0], self.min_sizes[-1] + 1))
        else:
            shortest = self.min_sizes[int(rng.integers(len(self.min_sizes)))]
        return resize_to(sample, *self.output_size(*sample.size, shortest), self.interpolation)


@TRANSFORMS.register("resize_shortest_edge")
@dataclass(frozen=True, kw_only=True)
class ResizeShortestEdgeConfig:
    """Scale the shorter side to one of several lengths (multi-scale training), the longer up to a cap."""

    #: Lengths to draw from, pixels; a range [first, last] with ``sample: range``.  FPN's: 800.
    min_sizes: tuple[int, ...] = (800,)
    #: The longer side never exceeds this, pixels.  FPN's: 1333.
    max_size: int = 1333
    #: choice: one of min_sizes; range: any integer from the first to the last.
    sample: Literal["choice", "range"] = "choice"
    #: linear, or area when shrinking.
    interpolation: Interpolation = "linear"
    #: nearest as Detectron2, floor as torchvision.
    rounding: Literal["nearest", "floor"] = "nearest"

    def __post_init__(self) -> None:
        if not self.min_sizes or min(self.min_sizes) < 1 or self.max_size < 1:
            raise ConfigError("resize_shortest_edge needs at least one min_sizes, and all lengths >= 1")
        if self.sample == "range" and (len(self.min_sizes) != 2 or self.min_sizes[0] > self.min_sizes[1]):
            raise ConfigError("resize_shortest_edge with sample: range needs min_sizes: [smallest, largest]")

    def build(self) -> ResizeShortestEdge:
        return ResizeShortestEdge(
            self.min_sizes, self.max_size, self.sample == "range", self.interpolation, self.rounding
        )


@dataclass(frozen=True)
class ResizeLongest:
    """Scale so that the longer side has ``size`` pixels."""

    size: int
    interpolation: Interpolation = "linear"

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        h, w = sample.size
        scale = self.size / max(h, w)
        return resize_to(sample, _round(h * scale), _round(w * scale), self.interpolation)


@TRANSFORMS.register("resize_longest")
@dataclass(frozen=True, kw_only=True)
class ResizeLongestConfig:
    """Scale the longer side to a length."""

    #: Length of the longer side, pixels.
    size: int
    #: linear, or area when shrinking.
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"resize_longest: size is {self.size}, it must be at least 1")

    def build(self) -> ResizeLongest:
        return ResizeLongest(self.size, self.interpolation)


@dataclass(frozen=True)
class Resize:
    """Scale to ``height`` x ``width`` pixels whatever the aspect ratio."""

    height: int
    width: int
    interpolation: Interpolation = "linear"

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        return resize_to(sample, self.height, self.width, self.interpolation)


@TRANSFORMS.register("resize")
@dataclass(frozen=True, kw_only=True)
class ResizeConfig:
    """Scale to one size whatever the aspect ratio."""

    #: Pixels.
    height: int
    #: Pixels.
    width: int
    #: linear, or area when shrinking.
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ConfigError(f"resize: {self.height}x{self.width} has no pixels")

    def build(self) -> Resize:
        return Resize(self.height, self.width, self.interpolation)


@dataclass(frozen=True)
class ScaleJitter:
    """Scale to fit ``height`` x ``width``, times a factor drawn evenly from [min_scale, max_scale].

    With a :class:`RandomCrop` of the same size behind it: large-scale jitter (Ghiasi et al. 2021, 0.1-2.0).
    """

    height: int
    width: int
    min_scale: float
    max_scale: float
    interpolation: Interpolation = "linear"

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        h, w = sample.size
        factor = self.min_scale + (self.max_scale - self.min_scale) * rng.random()
        scale = factor * min(self.height / h, self.width / w)
        return resize_to(sample, _round(h * scale), _round(w * scale), self.interpolation)


@TRANSFORMS.register("scale_jitter")
@dataclass(frozen=True, kw_only=True)
class ScaleJitterConfig:
    """Scale to fit a size, times a random factor; with random_crop behind it, large-scale jitter."""

    #: Pixels (Ghiasi et al. 2021: 1024).
    height: int = 1024
    #: Pixels.
    width: int = 1024
    #: Smallest factor (Ghiasi et al. 2021: 0.1).
    min_scale: float = 0.1
    #: Largest factor (Ghiasi et al. 2021: 2.0).
    max_scale: float = 2.0
    #: linear, or area when shrinking.
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or not 0 < self.min_scale <= self.max_scale:
            raise ConfigError("scale_jitter needs height, width >= 1 and 0 < min_scale <= max_scale")

    def build(self) -> ScaleJitter:
        return ScaleJitter(self.height, self.width, self.min_scale, self.max_scale, self.interpolation)


# ---- flips, turns, crops ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right with probability ``p``."""

    p: float = 0.5

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        width = float(sample.size[1])
        return _move(sample, cv2.flip(sample.image, 1), np.array([[-1, 0, width], [0, 1, 0]]))


@dataclass(frozen=True)
class VerticalFlip:
    """Mirror top and bottom with probability ``p``."""

    p: float = 0.5

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        height = float(sample.size[0])
        return _move(sample, cv2.flip(sample.image, 0), np.array([[1, 0, 0], [0, -1, height]]))


@dataclass(frozen=True)
class Rotate90:
    """With probability ``p``, turn by 90, 180 or 270 degrees, each as likely."""

    p: float = 0.75

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        for _ in range(int(rng.integers(1, 4))):
            # Counter-clockwise: (x, y) -> (y, W - x).
            matrix = np.array([[0, 1, 0], [-1, 0, float(sample.size[1])]])
            sample = _move(sample, cv2.rotate(sample.image, cv2.ROTATE_90_COUNTERCLOCKWISE), matrix)
        return sample


@TRANSFORMS.register("hflip")
@dataclass(frozen=True, kw_only=True)
class HorizontalFlipConfig:
    """Mirror left and right."""

    #: Probability, 0 to 1.
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_probability("hflip", self.p)

    def build(self) -> HorizontalFlip:
        return HorizontalFlip(self.p)


@TRANSFORMS.register("vflip")
@dataclass(frozen=True, kw_only=True)
class VerticalFlipConfig:
    """Mirror top and bottom."""

    #: Probability, 0 to 1.
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_probability("vflip", self.p)

    def build(self) -> VerticalFlip:
        return VerticalFlip(self.p)


@TRANSFORMS.register("rotate90")
@dataclass(frozen=True, kw_only=True)
class Rotate90Config:
    """Turn by 90, 180 or 270 degrees."""

    #: Probability of a turn, 0 to 1; 0.75 makes all four directions as likely.
    p: float = 0.75

    def __post_init__(self) -> None:
        _check_probability("rotate90", self.p)

    def build(self) -> Rotate90:
        return Rotate90(self.p)


@dataclass(frozen=True)
class RandomCrop:
    """A window of ``height`` x ``width`` pixels (at most the image), anywhere, with probability ``p``."""

    height: int
    width: int
    p: float = 1.0
    min_side: float = 1.0

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        if rng.random() >= self.p:
            return sample
        h, w = sample.size
        height, width = min(self.height, h), min(self.width, w)
        y0, x0 = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
        return crop_to(sample, x0, y0, width, height, self.min_side)


@TRANSFORMS.register("random_crop")
@dataclass(frozen=True, kw_only=True)
class RandomCropConfig:
    """A random window; boxes that it cuts shrink to what is left of their masks."""

    #: Pixels; a smaller image is taken whole.
    height: int
    #: Pixels.
    width: int
    #: Probability of a crop, 0 to 1.
    p: float = 1.0
    #: Cut instances with a shorter side than this are dropped, pixels.
    min_side: float = 1.0

    def __post_init__(self) -> None:
        _check_probability("random_crop", self.p)
        if min(self.height, self.width) < 1:
            raise ConfigError(f"random_crop: {self.height}x{self.width} has no pixels")

    def build(self) -> RandomCrop:
        return RandomCrop(self.height, self.width, self.p, self.min_side)


# ---- colour ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation times factors drawn evenly from [1 - a, 1 + a], in this order.

    Contrast scales about the image's mean gray, saturation about each pixel's gray (ITU-R 601 weights).
    """

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
class ColorJitterConfig:
    """Random brightness, contrast and saturation; geometry stays."""

    #: Factor in [1 - a, 1 + a], a in [0, 1].
    brightness: float = 0.2
    #: As brightness, about the image's mean.
    contrast: float = 0.2
    #: As brightness, about gray.
    saturation: float = 0.2

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"color_jitter: {name} is {getattr(self, name)}, it must lie in 0..1")

    def build(self) -> ColorJitter:
        return ColorJitter(self.brightness, self.contrast, self.saturation)


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ConfigError(f"{name}: p is {p}, a probability lies in 0..1")
