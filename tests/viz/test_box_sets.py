"""Boxes of several sets over an image."""

from __future__ import annotations

import numpy as np

from maskrcnn.viz.box_sets import TRUTH, WITH, WITHOUT, draw_box_sets


def test_sets_lie_over_each_other_and_the_truth_over_all() -> None:
    image = np.full((700, 800, 1), 90, np.uint8)
    whole = np.array([[100, 200, 500, 600]], dtype=np.float32)
    other, truth = whole + np.float32([200, 0, 200, 0]), whole + np.float32([0, 50, 0, 0])
    drawn = draw_box_sets(image, [(whole, WITHOUT), (other, WITH)], truth)
    assert drawn.shape == (700, 800, 3) and (image == 90).all()
    assert tuple(drawn[200, 150]) == WITHOUT  # the first row of the box: pixel i covers [i, i + 1)
    assert tuple(drawn[200, 400]) == WITH  # both
    assert tuple(drawn[599, 600]) == WITH and tuple(drawn[600, 600]) == (90, 90, 90)
    assert tuple(drawn[250, 150]) == TRUTH and tuple(drawn[253, 150]) == (0, 0, 0)
    nothing = np.zeros((0, 4), np.float32)
    assert (draw_box_sets(image, [(nothing, WITH)], nothing) == 90).all()


def test_small_images_are_enlarged_with_their_boxes() -> None:
    drawn = draw_box_sets(np.zeros((64, 64, 3), np.uint8), [], np.array([[10.0, 20.0, 30.0, 40.0]]))
    rows, columns = np.nonzero((drawn == TRUTH).all(axis=2))
    factor = drawn.shape[0] // 64
    assert factor > 5
    assert abs(rows.min() - 20 * factor) <= factor and abs(columns.max() - 30 * factor) <= factor
