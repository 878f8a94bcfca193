"""Polygons that run over themselves: what COCO leaves out of them is told, and can be filled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data.doctor import overlap_doubts
from maskrcnn.data.doctor.look import Look
from maskrcnn.data.doctor.mask_doubts import polygons
from maskrcnn.data.doctor.overlap_doubts import filled, overlap_doubt, share_lost, winding
from maskrcnn.structures import rle
from tests.data.doctor.scenes import SIZE, content, dataset

pytest.importorskip("shapely", reason="shapely is not installed")

#: A square of 40 px that is gone round once and a half: its right half is covered twice.
TWICE = [20, 20, 60, 20, 60, 60, 20, 60, 20, 20, 60, 20, 60, 60, 40, 60, 40, 20]
#: A square with a hole, as one line that runs in and back: right, and no overlap.
KEYHOLE = [20, 20, 60, 20, 60, 60, 20, 60, 20, 20, 30, 30, 30, 50, 50, 50, 50, 30, 30, 30]
BOW_TIE = [20, 20, 60, 60, 60, 20, 20, 60]


def points(flat: list[float]) -> np.ndarray:
    return np.array(flat, dtype=np.float64).reshape(-1, 2)


def pixels(flat: list[np.ndarray]) -> int:
    return rle.area(rle.from_polygons([p.ravel() for p in flat], *SIZE))


def test_the_share_that_is_covered_twice_is_what_coco_leaves_out() -> None:
    drawn, whole = pixels([points(TWICE)]), pixels([points(TWICE[:8])])
    assert share_lost(points(TWICE)) == pytest.approx(1 - drawn / whole, abs=0.03)
    assert share_lost(points(TWICE)) == pytest.approx(0.5)


@pytest.mark.parametrize("sound", [KEYHOLE, BOW_TIE, TWICE[:8]])
def test_what_loses_nothing_is_no_doubt(sound: list[float]) -> None:
    assert share_lost(points(sound)) == 0


def test_filling_covers_what_is_wound_round() -> None:
    ((outer,),) = filled(points(TWICE))
    assert pixels([outer]) == pixels([points(TWICE[:8])])
    (ring,) = filled(points(KEYHOLE))
    assert len(ring) == 2, "a hole stays a hole"


def test_windings_are_counted() -> None:
    assert abs(winding(points(TWICE), (50.0, 40.0))) == 2
    assert abs(winding(points(TWICE), (30.0, 40.0))) == 1
    assert winding(points(KEYHOLE), (40.0, 40.0)) == 0
    assert winding(points(TWICE), (90.0, 40.0)) == 0


def test_masks_are_told(tmp_path: Path) -> None:
    source = content()
    index = dataset(tmp_path, source).index
    assert overlap_doubt(index, polygons(index)) is None
    source["annotations"][4] |= {"segmentation": [TWICE], "bbox": [20, 20, 40, 40]}
    source["annotations"][6] |= {"segmentation": [KEYHOLE], "bbox": [20, 20, 40, 40]}
    index = dataset(tmp_path, source).index
    doubt = overlap_doubt(index, polygons(index))
    assert doubt is not None
    assert (doubt.kind, doubt.every, doubt.images) == ("polygon over itself", (30,), (3,))
    assert "up to 50% of the polygon" in doubt.cost


def test_without_shapely_it_is_said_that_this_was_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap_doubts, "installed", lambda module: False)
    look = Look()
    assert list(overlap_doubts._of_a_run(dataset(tmp_path), None, look)) == []
    assert look.skipped == ["polygons that run over themselves (they need pip install 'maskrcnn[doctor]')"]
