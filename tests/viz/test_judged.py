"""Evaluation pictures: what is marked, and the legend that says so."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.viz.judged import MISSED, RIGHT, WRONG, draw_judged, legend
from maskrcnn.viz.palette import luminance
from tests.viz.test_instances import as_rle, disc

GRAY = np.full((60, 80, 3), 100, dtype=np.uint8)


def test_each_kind_has_its_colour_and_what_is_missed_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "maskrcnn.viz.judged.legend",
        lambda picture, entries: written.extend(text for _, text in entries) or picture,
    )
    masks = [disc(20, 20, 9), disc(55, 20, 9), disc(40, 45, 9)]
    records = [
        {"segmentation": as_rle(masks[i]), "score": 0.9 - 0.1 * i, "bbox": [0, 0, 9, 9]} for i in range(2)
    ]
    plain = {"show_labels": False, "smallest": 0}
    out = draw_judged(GRAY, records, [0, 1], ["a", "b"], [True, False], [as_rle(masks[2])], [1], **plain)
    assert written == ["right 1", "wrong 1", "missed 1"]
    for (x, y), colour in (((20, 20), RIGHT), ((55, 20), WRONG)):
        towards = (out[y, x].astype(int) - 100) * (np.array(colour) - 100)
        assert (towards >= 0).all() and towards.any()
    assert (out[45, 40] == 100).all(), "what was missed is an outline"
    rim = np.hypot(*(np.argwhere((out != 100).any(2)) - [45, 40]).T)
    ring = (rim > 7) & (rim < 12)
    assert ring.any()
    angle = np.argwhere((np.abs(out.astype(int) - MISSED) < 40).all(2)) - [45, 40]
    turns = np.sort(np.arctan2(angle[:, 0], angle[:, 1]))
    assert len(turns) > 5 and np.diff(turns).max() > 0.3, "in dashes"


def test_boxes_are_marked_where_there_are_no_masks() -> None:
    records = [{"score": 0.9, "bbox": [10.0, 10.0, 20.0, 20.0]}]
    missed = np.array([[45.0, 20.0, 70.0, 50.0]])
    out = draw_judged(GRAY, records, [0], ["a", "b"], [True], missed, [0], show_labels=False, smallest=0)
    assert (np.abs(out[10, 15].astype(int) - RIGHT) < 30).all()
    assert (np.abs(out[20:50, 45].astype(int) - MISSED) < 30).all(1).any()
    nothing = draw_judged(GRAY, [], [], ["a"], [], np.zeros((0, 4)), [], smallest=0)
    assert np.array_equal(nothing[:60], GRAY) and len(nothing) > 60


def test_a_legend_fits_below_any_picture() -> None:
    for width in (40, 300, 2000):
        picture = np.full((30, width, 3), 7, np.uint8)
        out = legend(picture, [(RIGHT, "right 1000"), (WRONG, "wrong 1000"), (MISSED, "missed 1000")])
        assert out.shape[1] == width and np.array_equal(out[:30], picture)
        for colour in (RIGHT, WRONG, MISSED):
            assert (out[30:] == colour).all(2).any()


def linear(colour: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    values = np.array(colour) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def test_the_three_colours_are_apart_without_red_or_green_cones() -> None:
    """By Viénot, Brettel & Mollon 1999, equations for protanopes and deuteranopes."""
    lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    for blind in (protan, deutan):
        seen = [np.linalg.inv(lms) @ blind @ lms @ linear(c) for c in (RIGHT, WRONG, MISSED)]
        pairs = [np.linalg.norm(seen[i] - seen[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        red, green = (np.linalg.inv(lms) @ blind @ lms @ linear(c) for c in ((200, 60, 60), (90, 110, 50)))
        assert min(pairs) > 2 * np.linalg.norm(red - green)
    assert all(luminance(colour) >= 100 for colour in (RIGHT, WRONG, MISSED)[::2])
