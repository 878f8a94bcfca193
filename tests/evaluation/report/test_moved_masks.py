"""Masks moved with their boxes lie where a drawing of the moved shape lies."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.evaluation.report.moved_masks import move
from maskrcnn.structures import rle

SIZE = (60, 80)


def drawn(points: list[float]) -> np.ndarray:
    return rle.decode(rle.from_polygons([np.array(points)], *SIZE))


def whole(crop: tuple[np.ndarray, int, int]) -> np.ndarray:
    out = np.zeros(SIZE, dtype=np.uint8)
    bitmap, x, y = crop
    out[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
    return out


@pytest.mark.parametrize(
    ("box", "to"),
    [
        ((10, 8, 16, 12), (10, 8, 16, 12)),
        ((10, 8, 16, 12), (31, 20, 16, 12)),
        ((10, 8, 16, 12), (31, 20, 32, 36)),
        ((10, 8, 32, 24), (50, 40, 16, 12)),
        ((10, 8, 16, 12), (30.7, 20.2, 17.0, 13.1)),
        ((10, 8, 16, 12), (70, 50, 16, 12)),  # cut by the image
    ],
)
def test_a_mask_moves_and_grows_with_its_box(box: tuple[float, ...], to: tuple[float, ...]) -> None:
    def rectangle(b: tuple[float, ...]) -> list[float]:
        """A quarter from the left to the right end, the upper half."""
        left, right, top, bottom = b[0] + b[2] / 4, b[0] + b[2], b[1], b[1] + b[3] / 2
        return [left, top, right, top, right, bottom, left, bottom]

    code = rle.from_polygons([np.array(rectangle(box))], *SIZE)
    moved = whole(move(rle.decode_crop(code), box, to, SIZE))
    assert np.array_equal(moved, drawn(rectangle(to)))
    assert moved.any()


def test_what_has_no_place_is_empty() -> None:
    bitmap = np.ones((4, 4), dtype=np.uint8)
    assert not move((bitmap, 5, 5), (5, 5, 4, 4), (90, 5, 4, 4), SIZE)[0].any()
    assert not move((bitmap, 5, 5), (5, 5, 0, 4), (5, 5, 4, 4), SIZE)[0].any()
    assert not move((bitmap[:0], 0, 0), (5, 5, 4, 4), (5, 5, 4, 4), SIZE)[0].any()
