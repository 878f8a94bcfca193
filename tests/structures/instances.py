"""Instances of both kinds, polygons and run-length codes, for tests of masks and of what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from maskrcnn.structures import InstanceMasks, clip_boxes, rle

HEIGHT, WIDTH = 60, 80


def flipped(masks: InstanceMasks) -> InstanceMasks:
    """Left and right mirrored."""
    return masks.transform([[-1, 0, masks.width], [0, 1, 0]], masks.height, masks.width)


def turned(masks: InstanceMasks, turns: int) -> InstanceMasks:
    """Counter-clockwise by quarter turns, as ``np.rot90`` turns the image."""
    for _ in range(turns):
        masks = masks.transform([[0, 1, 0], [-1, 0, masks.width]], masks.width, masks.height)
    return masks


def resized(masks: InstanceMasks, sx: float, sy: float) -> InstanceMasks:
    """x times ``sx``, y times ``sy``."""
    size = int(masks.height * sy + 0.5), int(masks.width * sx + 0.5)
    return masks.transform([[sx, 0, 0], [0, sy, 0]], *size)


def cropped(masks: InstanceMasks, x0: float, y0: float, w: int, h: int) -> InstanceMasks:
    """In the frame of ``w`` x ``h`` pixels whose corner is (x0, y0)."""
    return masks.transform([[1, 0, -x0], [0, 1, -y0]], h, w)


def polygon(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> list[float]:
    angles = np.sort(rng.random(9)) * 2 * np.pi
    radii = radius * (0.4 + 0.6 * rng.random(9))
    points = np.stack([radii * np.cos(angles) + centre[0], radii * np.sin(angles) + centre[1]], 1)
    return [round(float(v), 2) for v in points.reshape(-1)]


def blob(rng: np.random.Generator, x: int, y: int, side: int) -> dict[str, Any]:
    bitmap = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    bitmap[y : y + side, x : x + side] = np.kron(rng.random((side // 4, side // 4)) < 0.6, np.ones((4, 4)))
    bitmap[y, x] = 1
    code = rle.encode(bitmap)
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}


def make_segmentations() -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        [polygon(rng, (20, 20), 12)],
        [polygon(rng, (50, 40), 15), polygon(rng, (70, 50), 9)],  # in two parts
        blob(rng, 30, 8, 24),
        [[-4.5, 40, 12, 45, 6.5, 63.25, -2, 58]],  # over the left and bottom edges
        blob(rng, 0, 0, 12),  # at the corner
        blob(rng, WIDTH - 16, HEIGHT - 16, 16),
    ]


def draw_bitmaps(segmentations: list[Any]) -> Tensor:
    """Drawn by pycocotools' public functions alone."""
    drawn = []
    for s in segmentations:
        codes = coco_mask.frPyObjects(s, HEIGHT, WIDTH) if isinstance(s, list) else s
        drawn.append(coco_mask.decode(coco_mask.merge(codes) if isinstance(codes, list) else codes))
    return torch.from_numpy(np.stack(drawn))


def jittered(masks: InstanceMasks, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Boxes near the instances' own, inside the image, three an instance."""
    rng = np.random.default_rng(1)
    index = torch.arange(len(masks)).repeat(3)
    boxes = masks.boxes()[index].double() + torch.from_numpy(rng.normal(size=(len(index), 4)) * 3)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1.5)
    return clip_boxes(boxes, masks.height, masks.width).to(dtype), index


Turn = tuple[Callable[[InstanceMasks], InstanceMasks], Callable[[Tensor], Tensor]]
TURNS: dict[str, Turn] = {
    "hflip": (flipped, lambda b: b.flip(2)),
    "vflip": (lambda m: turned(flipped(m), 2), lambda b: b.flip(1)),
    "rotate 1": (lambda m: turned(m, 1), lambda b: b.rot90(1, (1, 2))),
    "rotate 2": (lambda m: turned(m, 2), lambda b: b.rot90(2, (1, 2))),
    "rotate 3": (lambda m: turned(m, 3), lambda b: b.rot90(3, (1, 2))),
    "crop": (lambda m: cropped(m, 10, 5, 50, 40), lambda b: b[:, 5:45, 10:60]),
    "hflip, crop, rotate": (
        lambda m: turned(cropped(flipped(m), 3, 2, 70, 50), 1),
        lambda b: b.flip(2)[:, 2:52, 3:73].rot90(1, (1, 2)),
    ),
}
