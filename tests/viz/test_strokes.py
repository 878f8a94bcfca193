"""Outlines and fills: where they lie, to a part of a pixel, and that they are seen on any ground."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from maskrcnn.viz.instances import draw_instances, mask_window
from maskrcnn.viz.palette import class_colour, instance_colour, luminance
from maskrcnn.viz.strokes import SHIFT, Outline, corners, fill, line_width, outline_of, stroke

Pixels = npt.NDArray[np.uint8]


def disc(radius: float, size: int = 100) -> Pixels:
    yy, xx = np.mgrid[:size, :size] + 0.5
    return ((xx - size / 2) ** 2 + (yy - size / 2) ** 2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("radius", [5.0, 12.0, 30.0])
def test_an_outline_lies_on_the_border(radius: float, factor: int) -> None:
    (line,) = outline_of(*mask_window(disc(radius)), factor)
    places = (line[:, 0] / (1 << SHIFT) + 0.5) / factor - 50
    away = np.hypot(*places.T)
    assert np.abs(away - radius).max() <= 0.75, "within the raster, half a pixel and a little of the curve"
    turn = np.abs(np.diff(np.unwrap(np.arctan2(*places.T))))
    assert turn.max() < math.pi / 4, "all round"


def test_holes_have_outlines_and_are_not_filled() -> None:
    ring = disc(30) - disc(12)
    lines = outline_of(*mask_window(ring), 1)
    assert len(lines) == 2
    canvas = np.full((100, 100, 3), 50, np.uint8)
    fill(canvas, lines, (250, 250, 250), 1.0)
    assert (canvas[50, 50] == 50).all() and (canvas[50, 70] == 250).all() and (canvas[2, 2] == 50).all()


@pytest.mark.parametrize("mask", [np.eye(6), np.ones((1, 1)), np.ones((1, 9)), np.zeros((3, 3))], ids=str)
def test_specks_and_lines_of_one_pixel_are_drawn(mask: Pixels) -> None:
    image = np.full((40, 40, 3), 120, np.uint8)
    whole = np.zeros((40, 40), np.uint8)
    whole[10 : 10 + mask.shape[0], 10 : 10 + mask.shape[1]] = mask
    out = draw_instances(image, None, [whole], [0], ["a"], smallest=0, show_labels=False)
    assert (out != image).any() == bool(mask.any())


def test_objects_at_the_edge_of_the_picture() -> None:
    whole = np.zeros((40, 40), np.uint8)
    whole[:12, 30:] = 1
    image = np.full((40, 40, 3), 120, np.uint8)
    out = draw_instances(image, None, [whole], [0], ["a"], smallest=0, show_labels=False)
    assert (out[5, 35] != 120).any() and (out[20:, :20] == 120).all()


#: Grounds: black, white, gray, and the pink and violet of stained tissue.
GROUNDS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (226, 170, 205), (98, 52, 130), (160, 60, 200)]


@pytest.mark.parametrize("ground", GROUNDS, ids=str)
def test_an_outline_is_seen_on_any_ground(ground: tuple[int, int, int]) -> None:
    """Somewhere across it, light and dark differ by more than a quarter of the scale, whatever its colour."""
    image = np.full((100, 100, 3), ground, dtype=np.uint8)
    for colour in [*(instance_colour(i) for i in range(40)), *(class_colour(i) for i in range(40))]:
        out = draw_instances(
            image, None, [disc(20)], [0], ["a"], colours=[colour], alpha=0.0, show_labels=False, smallest=0
        )
        across = out[50, 20:40].astype(float) @ (0.2126, 0.7152, 0.0722)
        assert across.max() - across.min() > 255 / 4
        assert luminance(colour) >= 119


def test_lines_lie_over_the_rims_of_neighbours() -> None:
    canvas = np.full((60, 60, 3), 255, np.uint8)
    left, right = (Outline([corners((x, 10, x + 20, 50))], (86, 180, 233), 1) for x in (10, 31))
    stroke(canvas, [left, right])
    for x in (29, 31):
        assert (np.abs(canvas[30, x].astype(int) - (86, 180, 233)) < 40).all()
    assert canvas[30, 8].max() < 255 and (canvas[30, 5] == 255).all()


def test_small_objects_have_thin_lines_in_large_pictures() -> None:
    assert line_width((0, 0, 20, 20), 4000, 3000) == 1
    assert line_width((0, 0, 600, 500), 4000, 3000) == 8
    assert line_width((0, 0, 600, 500), 500, 300) == 1


def test_dashes_leave_gaps() -> None:
    canvas = np.zeros((100, 100, 3), np.uint8)
    lines = outline_of(*mask_window(disc(35)), 1)
    stroke(canvas, [Outline(lines, (255, 255, 255), 1, dashed=True)])
    places = np.argwhere(canvas[..., 0] > 100) - 49.5
    gaps = np.diff(np.sort(np.arctan2(*places.T))) * 35
    assert 8 < (gaps > 3).sum() < 30 and gaps.max() < 14
