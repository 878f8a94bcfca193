"""Windows cover images evenly, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.data.windows import LEAST_OVERLAP, Window, count_windows, rows_of_windows, starts


@pytest.mark.parametrize("length", [1, 64, 65, 79, 100, 112, 113, 200, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_windows_cover_a_side_and_overlap(length: int, overlap: float) -> None:
    size = 64
    found = starts(length, size, overlap)
    assert found[0] == 0 and found[-1] == max(length - size, 0)
    steps = np.diff(found)
    least = max(int(np.ceil(size * overlap)), LEAST_OVERLAP)
    assert (steps > 0).all() and (size - steps >= least).all()
    assert len(found) == 1 or len(found) == 1 + int(np.ceil((length - size) / (size - least)))


def test_windows_of_an_image_come_row_by_row() -> None:
    rows = rows_of_windows(100, 40, 64, 0.2)
    assert rows == [[Window(0, 0, 40, 64)], [Window(0, 36, 40, 64)]]
    assert count_windows(100, 40, 64, 0.2) == 2
