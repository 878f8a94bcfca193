"""Records of windows become those of whole images; windows that are missing leave theirs out alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.data.windows import Window, rows_of_windows
from maskrcnn.inference.tile_loop import _Image, whole_record
from maskrcnn.inference.tile_merger import Found
from maskrcnn.structures import rle


def seen(x: int, y: int, score: float) -> dict[str, Any]:
    return {"image_id": 9, "category_id": 1, "score": score, "bbox": [x, y, 20, 10]}


def test_windows_that_are_missing_leave_the_others_in_their_places() -> None:
    rows = rows_of_windows(100, 260, 100, 0.2)
    assert [window.x for window in rows[0]] == [0, 80, 160]
    image = _Image(4, rows, (100, 260))
    image.add(rows[0][0], [seen(10, 30, 0.5)])
    image.add(rows[0][2], [seen(50, 60, 0.9)])
    found = image.finish()
    assert [(r["image_id"], r["bbox"], r["score"]) for r in found] == [
        (4, [210, 60, 20, 10], 0.9),
        (4, [10, 30, 20, 10], 0.5),
    ]
    assert _Image(4, rows, (100, 260)).finish() == []


def test_a_record_is_moved_with_all_that_it_holds() -> None:
    window, mask = Window(80, 40, 100, 100), np.ones((10, 20), dtype=np.uint8)
    record = {"score": 0.4, "category_id": 2, "bbox": [5, 6, 20, 10], "keypoints": [7, 8, 0.5, 9, 10, 0.6]}
    found = Found(
        (85, 46, 105, 56), 0.8, 3, mask, (85, 46), {**record, "segmentation": None, "fill": 0.1}, window
    )
    moved = whole_record(found, 4, (200, 300))
    assert moved["keypoints"] == [87, 48, 0.5, 89, 50, 0.6]
    assert (moved["score"], moved["category_id"], moved["bbox"], moved["fill"]) == (
        0.8,
        3,
        [85, 46, 20, 10],
        0.1,
    )
    bitmap = rle.decode(moved["segmentation"])
    assert bitmap.shape == (200, 300) and bitmap.sum() == 200 and bitmap[46:56, 85:105].all()
