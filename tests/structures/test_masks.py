"""Instance masks: transforms are exact, and bitmaps those of pycocotools."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from maskrcnn.modeling.roi.mask_targets import masks_in_boxes
from maskrcnn.structures import InstanceMasks
from tests.structures.instances import (
    HEIGHT,
    TURNS,
    WIDTH,
    cropped,
    flipped,
    polygon,
    resized,
)


def test_bitmaps_and_codes_are_those_of_pycocotools(masks: InstanceMasks, bitmaps: Tensor) -> None:
    assert torch.equal(masks.to_bitmaps(), bitmaps)
    for code, bitmap in zip(masks.to_rles(), bitmaps.numpy(), strict=True):
        assert (coco_mask.decode(code) == bitmap).all()


@pytest.mark.parametrize("name", TURNS)
def test_turned_rle_masks_are_the_turned_bitmaps(masks: InstanceMasks, bitmaps: Tensor, name: str) -> None:
    turn, expected = TURNS[name]
    rows = [2, 4, 5]
    turned, wanted = turn(masks.select(rows)), expected(bitmaps[rows])
    assert (turned.height, turned.width) == tuple(wanted.shape[1:])
    assert torch.equal(turned.to_bitmaps(), wanted)
    for code, bitmap in zip(turned.to_rles(), wanted.numpy(), strict=True):
        assert (coco_mask.decode(code) == bitmap).all()
    for box, bitmap in zip(turned.boxes().tolist(), wanted.numpy(), strict=True):
        y, x = np.nonzero(bitmap)
        assert box == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])


@pytest.mark.parametrize("name", TURNS)
def test_turned_polygons_stay_near_the_turned_bitmaps(
    masks: InstanceMasks, bitmaps: Tensor, name: str
) -> None:
    turn, expected = TURNS[name]
    rows = [0, 1, 3]
    turned, wanted = turn(masks.select(rows)).to_bitmaps(), expected(bitmaps[rows])
    # Drawing is not symmetric to the pixel, but a misplaced frame would cost far more.
    union = ((turned + wanted) > 0).sum((1, 2))
    both = (turned * wanted).sum((1, 2))
    assert (both >= 0.9 * union).all()


def test_vertices_move_exactly(masks: InstanceMasks, segmentations: list[Any]) -> None:
    moved = cropped(flipped(resized(masks, 2.0, 1.5)), 4, 6, 100, 60)
    x, y = np.reshape(segmentations[1][1], (-1, 2)).T
    assert np.allclose(moved.polygons(1)[1], np.stack([2 * WIDTH - 2 * x - 4, 1.5 * y - 6], 1), atol=1e-12)
    assert (moved.height, moved.width) == (60, 100)
    assert moved.polygons(2) == []


def test_boxes_and_areas(masks: InstanceMasks, segmentations: list[Any], bitmaps: Tensor) -> None:
    boxes, areas = masks.boxes(), masks.areas()
    points = np.reshape(segmentations[1][0] + segmentations[1][1], (-1, 2))
    assert np.allclose(boxes[1].numpy(), [*points.min(0), *points.max(0)], atol=1e-5)
    # Cut at the edges: the top is where the line from (-4.5, 40) to (12, 45) enters.
    assert torch.allclose(boxes[3], torch.tensor([0, 40 + 5 * 4.5 / 16.5, 12, HEIGHT]))
    assert areas[2] == bitmaps[2].sum()
    assert resized(masks, 2, 3).areas()[2] == 6 * bitmaps[2].sum()
    square = InstanceMasks.from_coco([[[0, 0, 4, 0, 4, 3, 0, 3]]], 10, 10)
    assert square.areas().tolist() == [12.0]


def test_boxes_after_a_crop_are_those_of_what_is_left() -> None:
    # A triangle with a corner at x = 0; its part right of x = 6 is narrower than its box is there.
    masks = InstanceMasks.from_coco([[[0, 5, 10, 0, 10, 10]], [[0, 0, 2, 0, 2, 2]]], 10, 10)
    left = cropped(masks, 0, 0, 6, 10).boxes()
    assert torch.allclose(left[0], torch.tensor([0.0, 2.0, 6.0, 8.0]))
    assert cropped(masks, 6, 0, 4, 10).boxes()[1].tolist() == [0, 0, 0, 0]  # nothing left


def test_select_and_cat(masks: InstanceMasks, bitmaps: Tensor) -> None:
    order = [5, 1, 1, 0]
    assert torch.equal(masks.select(order).to_bitmaps(), bitmaps[order])
    both = InstanceMasks.cat([masks.select([3, 2]), flipped(flipped(masks)), masks.select([])])
    assert torch.equal(both.to_bitmaps(), torch.cat([bitmaps[[3, 2]], bitmaps]))
    with pytest.raises(ValueError, match="one frame size"):
        InstanceMasks.cat([masks, resized(masks, 2, 2)])


def test_pickling_keeps_everything(masks: InstanceMasks) -> None:
    moved = resized(flipped(masks), 1.5, 1.5)
    again = pickle.loads(pickle.dumps(moved))
    assert torch.equal(again.to_bitmaps(), moved.to_bitmaps())


def test_nothing_gives_nothing() -> None:
    none = InstanceMasks.from_coco([], HEIGHT, WIDTH)
    assert len(none) == 0
    assert none.boxes().shape == (0, 4)
    assert none.areas().shape == (0,)
    assert none.to_bitmaps().shape == (0, HEIGHT, WIDTH)
    assert resized(flipped(none), 2, 2).select([]).to_rles() == []


def test_an_empty_rle_is_an_empty_mask() -> None:
    masks = InstanceMasks.from_coco([{"size": [10, 10], "counts": [100]}], 10, 10)
    assert masks.boxes().tolist() == [[0, 0, 0, 0]]


def test_a_turn_and_what_follows_it_resample_once(masks: InstanceMasks) -> None:
    """Turned by 45 degrees eight times is where it began: maps are composed, and no pixel is lost."""
    c = np.sqrt(0.5)
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    linear = np.array([[c, c], [-c, c]])
    matrix = np.column_stack((linear, middle - linear @ middle))
    moved = masks
    for _ in range(8):
        moved = moved.transform(matrix, HEIGHT, WIDTH)
    codes = [2, 4, 5]
    assert torch.equal(moved.to_bitmaps()[codes], masks.to_bitmaps()[codes])
    for one, other in zip(moved.polygons(1), masks.polygons(1), strict=True):
        assert np.allclose(one, other, atol=1e-9)
    assert torch.allclose(moved.boxes(), masks.boxes(), atol=1e-4)
    assert torch.allclose(moved.areas(), masks.areas(), rtol=1e-5)
    # And a part of it: mirrored behind a turn, as if all had been done to a dense mask.
    turned = masks.transform(matrix, HEIGHT, WIDTH)
    assert torch.equal(flipped(turned).to_bitmaps()[2], turned.to_bitmaps()[2].flip(1))  # an RLE


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="3 .x, y. pairs"):
        InstanceMasks.from_coco([[[0, 0, 4, 0]]], 10, 10)
    with pytest.raises(ValueError, match="size"):
        InstanceMasks.from_coco([{"size": [4, 4], "counts": [16]}], 10, 10)


def test_memory_grows_with_objects_and_not_with_pixels() -> None:
    """1,000 instances on 4000 x 4000 pixels would be 16 GB of bitmaps."""
    rng = np.random.default_rng(0)
    segmentations: list[Any] = []
    for k in range(1000):
        corner = rng.integers(0, 3900, 2)
        if k % 10:
            segmentations.append([(polygon(rng, (0, 0), 40) + np.tile(corner + 50, 9)).tolist()])
        else:  # an RLE of a 60 x 60 square
            x, y = corner.tolist()
            counts = [x * 4000 + y] + [60, 3940] * 59 + [60]
            segmentations.append({"size": [4000, 4000], "counts": [*counts, 4000 * 4000 - sum(counts)]})
    tracemalloc.start()
    masks = resized(InstanceMasks.from_coco(segmentations, 4000, 4000), 0.2, 0.2)
    masks_in_boxes(masks, masks.boxes(), torch.arange(1000), 28, "polygon")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6, f"{peak / 1e6:.1f} MB"
