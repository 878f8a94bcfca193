"""Turning, scaling, shearing and shifting an image, and boxes drawn tight again after such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import NotNegative, Share
from maskrcnn.data.interfaces import TRANSFORMS
from maskrcnn.data.transforms.basic import Sometimes
from maskrcnn.data.transforms.jitter import MEAN_PIXEL, Byte, Scale
from maskrcnn.data.transforms.moving import by_fours, fit_boxes, move
from maskrcnn.errors import ConfigError
from maskrcnn.structures import RawSample
from maskrcnn.structures.masks import axis_aligned

Angle = Annotated[float, Range(-360, 360)]
#: Beyond 40 degrees, shears along both axes together would fold the image over.
Shear = Annotated[float, Range(-40, 40)]


@TRANSFORMS.register("affine")
@dataclass(frozen=True)
class Affine(Sometimes):
    """Turn, scale, shear and shift about the image's middle, by amounts drawn evenly; the frame stays.

    Polygons and points are mapped exactly, run lengths resampled once, when they are read.  After a turn or a
    shear boxes are the tight boxes of the masks (without masks: those around the moved boxes); boxes that the
    frame cuts shrink to what is left.
    """

    #: Degrees, counter-clockwise: least and most.
    rotate: tuple[Angle, Angle] = (-180.0, 180.0)
    #: Factor of both sides: least and most.
    scale: tuple[Scale, Scale] = (1.0, 1.0)
    #: Degrees, -40 to 40, drawn for x and for y apart: least and most.
    shear: tuple[Shear, Shear] = (0.0, 0.0)
    #: At most so much of each side, 0 to 1, either way.
    translate: Share = 0.0
    #: R, G, B of what comes into the frame from outside; default ImageNet's mean pixel.  With another number
    #: of channels each has the mean of the three.
    fill: tuple[Byte, Byte, Byte] = MEAN_PIXEL
    #: Cut, turned or sheared instances with a shorter side than this are dropped, pixels.
    min_side: NotNegative = 1.0
    #: Probability, 0 to 1.
    p: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rotate", "scale", "shear"):
            check_ends(name, getattr(self, name))

    def always(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        (height, width), draws = sample.size, rng.random(6)
        ends = np.array(
            [self.rotate, self.scale, self.shear, self.shear, *[[-self.translate, self.translate]] * 2]
        )
        angle, scale, shear_x, shear_y, *shift = (ends[:, 0] + (ends[:, 1] - ends[:, 0]) * draws).tolist()
        matrix = about_middle(height, width, angle, scale, (shear_x, shear_y), (shift[0], shift[1]))
        if np.array_equal(matrix, [[1, 0, 0], [0, 1, 0]]):
            return sample
        moved = move(sample, warp(sample.image, matrix, self.fill), matrix)
        return fit_boxes(moved, self.min_side, loose=not axis_aligned(matrix))


def about_middle(
    height: int,
    width: int,
    angle: float,
    scale: float,
    shear: tuple[float, float],
    shift: tuple[float, float],
) -> npt.NDArray[np.float64]:
    """The map [2, 3] of points of an image that shears by degrees (x, y), scales, turns by ``angle`` degrees
    counter-clockwise, each about the middle, and then shifts by parts (x, y) of the sides.
    """
    turn, (kx, ky) = np.radians(angle), np.tan(np.radians(shear))
    # y points down, so counter-clockwise as one sees it is (x, y) -> (x cos + y sin, y cos - x sin).
    linear = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    linear = linear @ np.array([[1.0, kx], [ky, 1.0]])
    middle = np.array([width / 2, height / 2])
    moved: npt.NDArray[np.float64] = middle + np.array(shift) * (width, height) - linear @ middle
    return np.column_stack((linear, moved))


def warp(
    image: npt.NDArray[np.generic], matrix: npt.NDArray[np.float64], fill: tuple[int, int, int]
) -> npt.NDArray[np.generic]:
    """``image`` [H, W, C] through ``matrix`` [2, 3] of continuous points, in the same frame, linearly."""
    inverse = np.linalg.inv(matrix[:, :2])
    # Pixel i stands for the point i + 0.5.
    back = np.column_stack((inverse, inverse @ (0.5 - matrix[:, 2]) - 0.5))
    size, flags = (image.shape[1], image.shape[0]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return by_fours(
        image,
        lambda part, value: cv2.warpAffine(
            part, back, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=value
        ),
        fill,
    )


def check_ends(name: str, ends: tuple[float, float]) -> None:
    """
    Raises:
        ConfigError: least and most are exchanged.
    """
    if ends[0] > ends[1]:
        raise ConfigError(f"{name} {list(ends)} must name the least first: [{ends[1]:g}, {ends[0]:g}]")


@TRANSFORMS.register("tighten_boxes")
@dataclass(frozen=True)
class TightenBoxes(Config):
    """Each box becomes the tight box of its mask inside the frame; without masks nothing changes.

    For boxes that were drawn wider than their objects; ``data.tighten_boxes`` puts it behind all others.
    """

    #: Instances of which a shorter side than this is left are dropped, pixels.
    min_side: NotNegative = 0.0

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        return sample if sample.targets.masks is None else fit_boxes(sample, self.min_side, loose=True)
