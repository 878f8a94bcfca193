"""Masks and boxes of every awkward kind, for tests of what draws masks inside boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskrcnn.structures import InstanceMasks, PackedMasks
from tests.structures.instances import HEIGHT, TURNS, WIDTH, make_segmentations, resized

SIZES = (28, 14, 1, 7, 33, 64, 65, 130)


class Raster(NamedTuple):
    """The arguments of ``rasterise``."""

    packed: PackedMasks
    boxes: Tensor
    instance: Tensor
    size: int
    mode: Any


def awkward_polygon(rng: np.random.Generator) -> list[float]:
    """Of 3 to 11 vertices: crossing itself; on pixel edges or middles; large; tiny; with vertices twice."""
    n = int(rng.integers(3, 12))
    kinds = (
        lambda: rng.random((n, 2)) * 60,
        lambda: rng.integers(0, 60, (n, 2)).astype(float),
        lambda: rng.integers(0, 120, (n, 2)) / 2 + 0.1 * rng.integers(0, 2),
        lambda: rng.normal(size=(n, 2)) * 10.0 ** rng.integers(0, 3),
        lambda: rng.normal(size=(n, 2)) * 0.3 + rng.random(2) * 60,
        lambda: np.repeat(rng.random((n, 2)) * 60, 2, axis=0),
        lambda: np.stack([np.cos(angles := np.sort(rng.random(n)) * 6.3), np.sin(angles)], 1) * 25 + 30,
    )
    points = kinds[int(rng.integers(len(kinds)))]()
    return [float(v) for v in points.reshape(-1)]


def awkward_boxes(rng: np.random.Generator, count: int) -> Tensor:
    """float64 [R, 4] near an image of 60 pixels: sides of 0.1 to 600 pixels; whole and half coordinates."""
    centre, side = (
        rng.random((count, 2)) * 60,
        rng.random((count, 2)) * 10.0 ** rng.integers(-1, 3, (count, 1)),
    )
    boxes = np.concatenate((centre - side / 2, centre + side / 2), axis=1)
    grid = rng.choice([1, 2, 0], (count, 1))
    return torch.from_numpy(np.where(grid > 0, np.round(boxes * grid) / np.maximum(grid, 1), boxes))


def polygon_rasters(count: int, seed: int = 0) -> Iterator[Raster]:
    """Polygons of one to four parts, in two images."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        images = [
            InstanceMasks.from_coco(
                [[awkward_polygon(rng) for _ in range(rng.integers(1, 5))] for _ in range(n)], 60, 60
            )
            for n in rng.integers(0, 4, 2)
        ]
        yield _raster(rng, images, SIZES[i % len(SIZES)], "polygon", padded=bool(i % 2))


def bitmap_rasters(count: int, seed: int = 0) -> Iterator[Raster]:
    """Polygons and run-length codes, flipped and turned, resized, sheared, in every mode."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        masks = InstanceMasks.from_coco(make_segmentations(), HEIGHT, WIDTH)
        masks = TURNS[list(TURNS)[i % len(TURNS)]][0](masks)
        if i % 4 == 1:
            masks = resized(masks, *(rng.random(2) * 3 + 0.2))
        if i % 5 == 2:
            masks = masks.transform([[0.8, 0.3, 1], [-0.3, 0.8, 20]], masks.height, masks.width)
        mode = ("bitmask", "bitmask_hard", "polygon")[i % 3]
        yield _raster(rng, [masks, masks.select([2, 0])], SIZES[i % len(SIZES)], mode, padded=bool(i % 2))


def _raster(
    rng: np.random.Generator, images: list[InstanceMasks], size: int, mode: Any, *, padded: bool
) -> Raster:
    packed = PackedMasks.of(images, drawn=mode == "polygon", padded=padded)
    rows = len(packed.instances)
    instance = torch.from_numpy(rng.integers(-1, rows, 12)) if rows else torch.full((12,), -1)
    boxes = awkward_boxes(rng, 12)
    return Raster(packed, boxes if rng.random() < 0.5 else boxes.float(), instance, size, mode)
