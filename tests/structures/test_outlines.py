"""Outlines of masks are drawn as the very masks again."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely

from maskrcnn.structures import rle
from maskrcnn.structures.outlines import boundary_loops, code_of_polygons, outline, polygons


def drawn_again(bitmap: np.ndarray) -> np.ndarray:
    return rle.decode(rle.from_polygons([np.array(outline(rle.encode(bitmap)))], *bitmap.shape))


def signed_area(loop: list[tuple[int, int]]) -> float:
    """Above 0 where it is walked clockwise, y pointing down."""
    pairs = zip(loop, loop[1:] + loop[:1], strict=True)
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs) / 2


@pytest.mark.parametrize("density", [0.1, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("most", [4, 12, 40])
def test_decode_encode_is_equal(density: float, most: int) -> None:
    rng = np.random.default_rng(int(density * 10) + most)
    for _ in range(60):
        bitmap = (rng.random(rng.integers(1, most, 2)) < density).astype(np.uint8)
        if bitmap.any():
            assert np.array_equal(drawn_again(bitmap), bitmap)


def test_large_smooth_masks_with_holes_and_parts() -> None:
    y, x = np.mgrid[:300, :400]
    far = np.hypot(x - 120, y - 150)
    bitmap = ((far < 100) & (far > 40) | (far < 10) | (np.hypot(x - 330, y - 60) < 50.5)).astype(np.uint8)
    assert np.array_equal(drawn_again(bitmap), bitmap)
    assert len(boundary_loops(bitmap)) == 4


def test_loops_turn_clockwise_round_parts_and_the_other_way_round_holes() -> None:
    ring = np.ones((3, 3), dtype=np.uint8)
    ring[1, 1] = 0
    outer, hole = boundary_loops(ring)
    assert outer == [(0, 0), (3, 0), (3, 3), (0, 3)]
    assert set(hole) == {(1, 1), (1, 2), (2, 2), (2, 1)}
    assert (signed_area(outer), signed_area(hole)) == (9, -1)
    assert len(boundary_loops(np.eye(2, dtype=np.uint8))) == 2  # pixels that touch by a corner


def test_an_empty_mask_has_none() -> None:
    assert outline(rle.encode(np.zeros((3, 4), dtype=np.uint8))) == []


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 0.9])
def test_polygons_are_valid_and_give_the_mask_back(density: float) -> None:
    rng = np.random.default_rng(int(density * 10))
    for _ in range(60):
        bitmap = (rng.random(rng.integers(1, 14, 2)) < density).astype(np.uint8)
        code = rle.encode(bitmap)
        parts = polygons(code)
        assert np.array_equal(rle.decode(code_of_polygons(parts, *bitmap.shape)), bitmap)
        assert len(parts) == cv2.connectedComponents(bitmap, connectivity=4)[0] - 1
        shapes = [shapely.Polygon(part.exterior, part.holes) for part in parts]
        assert all(shape.is_valid for shape in shapes)
        assert sum(shape.area for shape in shapes) == bitmap.sum()


def test_a_line_that_meets_itself_becomes_a_hole() -> None:
    around = np.ones((4, 4), dtype=np.uint8)
    around[1, 1] = around[2, 2] = 0  # touch by a corner
    (part,) = polygons(rle.encode(around))
    assert sorted(map(signed_area, part.holes)) == [-1, -1]
    around[0, 0] = 0  # now the first of them touches the outside by a corner
    (part,) = polygons(rle.encode(around))
    assert (len(part.holes), signed_area(part.exterior)) == (2, 15)
    assert polygons(rle.encode(np.zeros((3, 4), dtype=np.uint8))) == []
