"""Moving an image with its boxes and masks, exactly.

Frame convention: an image of W pixels covers [0, W); scaling by W2 / W maps x to x W2 / W, mirroring maps
x to W - x, so a box and the pixels under it never part (no half-pixel drift).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from maskrcnn.data.interfaces import Transform
from maskrcnn.structures import RawSample, clip_boxes, large_enough
from maskrcnn.structures.masks import axis_aligned
from maskrcnn.structures.samples import Image

#: ``linear``: of the 4 nearest pixels, as OpenCV (so mmdetection, and torchvision's detectors in float):
#: fast, but below half size pixels are skipped.  ``area``: the mean of the pixels under each when both sides
#: shrink, else linear.  ``antialias``: weighed by a triangle as wide as the new pixels, so that along a side
#: that shrinks every pixel counts: PIL's bilinear, which Detectron2 and maskrcnn-benchmark use.
Resample: TypeAlias = Literal["linear", "area", "antialias"]

#: The keys of transforms that had another name: old -> new.
RENAMED = {"interpolation": "resample"}


def apply_transforms(
    transforms: Sequence[Transform], sample: RawSample, rng: np.random.Generator
) -> RawSample:
    """One after the other."""
    for transform in transforms:
        sample = transform(sample, rng)
    return sample


def resize_to(sample: RawSample, height: int, width: int, how: Resample) -> RawSample:
    """The sample at ``height`` x ``width`` pixels; each axis by its own exact ratio."""
    h, w = sample.size
    if (h, w) == (height, width):
        return sample
    image = resample(sample.image, height, width, how)
    return move(sample, image, np.array([[width / w, 0, 0], [0, height / h, 0]]))


def crop_to(sample: RawSample, x0: int, y0: int, width: int, height: int, min_side: float) -> RawSample:
    """The window of ``width`` x ``height`` pixels at (x0, y0), which must lie inside the image.

    Boxes that the window cuts become the tight box of what is left of their mask (of the box, where there
    are no masks); instances with a side below ``min_side`` pixels are dropped.
    """
    image = sample.image[y0 : y0 + height, x0 : x0 + width]
    moved = move(sample, image, np.array([[1, 0, -x0], [0, 1, -y0]], dtype=np.float64))
    return fit_boxes(moved, min_side)


def fit_boxes(sample: RawSample, min_side: float, *, loose: bool = False) -> RawSample:
    """Boxes cut to the frame.

    Those that are cut, and with ``loose`` all, become the tight boxes of what is left of their masks (of the
    box, where there are no masks), and are dropped where a side is below ``min_side`` pixels, or nothing.
    """
    targets = sample.targets
    boxes = clip_boxes(targets.boxes, *sample.size)
    cut = (boxes != targets.boxes).any(1) | loose
    if targets.masks is not None and cut.any():
        rows = cut.nonzero()[:, 0]
        boxes[rows] = targets.masks.select(rows.tolist()).boxes()
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = ~cut | ((sides >= min_side) & (sides > 0)).all(1)
    return replace(sample, targets=replace(targets, boxes=boxes).select(keep))


def pad_to(sample: RawSample, height: int, width: int, value: tuple[int, int, int]) -> RawSample:
    """The sample on a canvas of ``height`` x ``width`` pixels (at least its own), at the upper left."""
    h, w = sample.size
    if (h, w) == (height, width):
        return sample
    border = (0, height - h, 0, width - w, cv2.BORDER_CONSTANT)
    image = by_fours(sample.image, lambda part, fill: cv2.copyMakeBorder(part, *border, value=fill), value)
    return move(sample, image, np.array([[1.0, 0, 0], [0, 1.0, 0]]))


def by_fours(
    image: Image, change: Callable[[Image, Sequence[float]], Image], fill: tuple[int, int, int] = (0, 0, 0)
) -> Image:
    """``change`` of an image [H, W, C], four channels at a time where there are more: OpenCV's most.

    change: takes some of the channels, and of ``fill`` the values of those; without three channels in all
        each has their mean.
    """
    channels = image.shape[2]
    fills = list(fill) if channels == 3 else [round(sum(fill) / 3)] * 4
    if channels <= 4:
        return change(image, fills)
    parts = (change(np.ascontiguousarray(image[..., i : i + 4]), fills) for i in range(0, channels, 4))
    return np.dstack(list(parts))


def move(sample: RawSample, image: Image, matrix: npt.NDArray[np.float64]) -> RawSample:
    """``image`` in place of the old one; boxes, masks, keypoints and proposals through ``matrix`` [2, 3].

    Proposals are cut to the image, and those of which nothing is left dropped.  Keypoints outside count as
    not labelled, and where ``matrix`` mirrors, left and right ones change places.
    """
    if image.ndim == 2:  # OpenCV drops the axis of a single channel
        image = image[..., None]
    targets = sample.targets
    boxes = move_boxes(targets.boxes, matrix)
    height, width = image.shape[:2]
    proposals = sample.proposals
    if proposals is not None:
        proposals = clip_boxes(move_boxes(proposals, matrix), height, width)
        proposals = proposals[large_enough(proposals, 0)]
    masks = None if targets.masks is None else targets.masks.transform(matrix, height, width)
    keypoints = targets.keypoints
    if keypoints is not None:
        if np.linalg.det(matrix[:, :2]) < 0 and sample.mirror is not None:
            keypoints = keypoints[:, list(sample.mirror)]
        keypoints = move_points(keypoints, matrix, height, width)
    moved = replace(targets, boxes=boxes, masks=masks, keypoints=keypoints)
    return replace(sample, image=image, targets=moved, proposals=proposals)


def move_boxes(boxes: Tensor, matrix: npt.NDArray[np.float64]) -> Tensor:
    """float32 [N, 4] xyxy through ``matrix`` [2, 3]: the box around the moved one, x1 <= x2, y1 <= y2."""
    m = torch.from_numpy(matrix)
    corners = boxes.double().view(-1, 2, 2)
    if not axis_aligned(matrix):
        corners = boxes.double()[:, [0, 1, 2, 3, 0, 3, 2, 1]].view(-1, 4, 2)
    corners = corners @ m[:, :2].T + m[:, 2]
    return torch.cat((corners.amin(1), corners.amax(1)), dim=1).float()


def move_points(points: Tensor, matrix: npt.NDArray[np.float64], height: int, width: int) -> Tensor:
    """float32 [..., 3] (x, y, v) through ``matrix`` [2, 3]; (0, 0, 0) where unlabelled or outside."""
    m = torch.from_numpy(matrix)
    places = points[..., :2].double() @ m[:, :2].T + m[:, 2]
    inside = ((places >= 0) & (places <= places.new_tensor([width, height]))).all(-1)
    moved = torch.cat((places.float(), points[..., 2:]), -1)
    return torch.where((inside & (points[..., 2] > 0))[..., None], moved, 0)


def round_side(value: float) -> int:
    """A side in pixels, rounded half up, at least 1."""
    return max(int(value + 0.5), 1)


def resample(image: Image, height: int, width: int, how: Resample) -> Image:
    """``image`` at ``height`` x ``width`` pixels.

    Where no side shrinks, PIL's bilinear and OpenCV's linear are one function, rounded in other places: a
    value differs by 1 in 255 at most.  There the faster one, OpenCV, serves ``antialias`` too; where a side
    shrinks, ``antialias`` gives what PIL gives to the bit, on every machine.

    Args:
        image: [H, W, C], uint8 or float32.

    Returns:
        [height, width, C] of the same type, writable; of a single channel maybe [height, width].
    """
    h, w = image.shape[:2]
    if how == "antialias" and (height < h or width < w):
        return _antialias(image, height, width)
    shrinks = height < h and width < w
    mode = cv2.INTER_AREA if how == "area" and shrinks else cv2.INTER_LINEAR
    return by_fours(image, lambda part, _: cv2.resize(part, (width, height), interpolation=mode))


def _antialias(image: Image, height: int, width: int) -> Image:
    size = (width, height)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.array(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BILINEAR))
    channels = [PIL.Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(c.resize(size, PIL.Image.Resampling.BILINEAR)) for c in channels], axis=-1)
