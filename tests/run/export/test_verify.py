from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maskrcnn.inference.records import Result
from maskrcnn.run.export.verify import AP_BOUNDS, FOUND_AGAIN, Comparison, Meetings
from maskrcnn.structures.rle import as_text, encode


def record(x: float, *, score: float = 0.9, label: int = 1, mask_from: int = 0) -> Result:
    bitmap = np.zeros((40, 40), dtype=np.uint8)
    bitmap[mask_from:20, int(x) : int(x) + 10] = 1
    box = [x, 0.0, 10.0, 20.0]
    return {"bbox": box, "score": score, "category_id": label, "segmentation": as_text(encode(bitmap))}


def test_detections_are_found_again_by_class_and_place() -> None:
    meetings = Meetings()
    before = [record(0), record(15), record(28), record(5, score=0.4)]
    after = [record(28.25, score=0.85, mask_from=1), record(15, label=2), record(0)]
    meetings.add(before, after)
    found = meetings.comparison(1, {"bbox": (0.5, 0.5)})
    assert (found.detections, found.matched) == (3, 2)  # one below the score, one of another class
    assert found.boxes == pytest.approx(0.25)
    assert found.scores == pytest.approx(0.05)
    assert found.masks == pytest.approx(190 / 200)
    meetings.add([record(3)], [])
    assert meetings.comparison(2, {}).detections == 4


def test_keypoints_and_further_numbers_are_compared_in_their_own_unit() -> None:
    meetings = Meetings()
    points = [1.0, 2.0, 0.5, 4.0, 4.0, 0.5]
    before = [record(0) | {"keypoints": points, "place": [0.25, 0.5]}]
    after = [record(0) | {"keypoints": [4.0, 6.0, 9.0, 4.0, 4.0, 0.5], "place": [0.25, 0.75]}]
    meetings.add(before, after, ("place",))
    meetings.add(before, before, ("place",))
    found = meetings.comparison(2, {})
    assert (found.keypoints, found.extras) == (5.0, {"place": 0.25})
    assert found.lines()[0].endswith("IoU of masks 1.0000, keypoints 5 px, place 0.25")


def test_two_masks_without_a_pixel_are_the_same() -> None:
    for other, overlap in ((20, 1.0), (0, 0.0)):
        meetings = Meetings()
        meetings.add([record(0, mask_from=20)], [record(0, mask_from=other)])
        assert meetings.masks == overlap


def test_a_file_is_good_with_the_same_ap_of_all_kinds_and_the_same_detections() -> None:
    def comparison(box: float, mask: float) -> Comparison:
        return Comparison(1, 1, 1, 0.0, 0.0, 1.0, {"bbox": (0.4, box), "segm": (0.3, mask)})

    assert comparison(0.4 + 0.9 * AP_BOUNDS["float32"], 0.3).doubt is None
    assert replace(comparison(0.4, 0.291), bound=AP_BOUNDS["int8"]).doubt is None
    for other in (comparison(0.4, 0.3 - 1.1 * AP_BOUNDS["float32"]), Comparison(1, 1, 1, 0.0, 0.0, None, {})):
        assert other.doubt == "AP differs by more than 0.001"
    none = Comparison(9, 10, 9, 0.0, 0.0, None, {"bbox": (0.0, 0.0)})
    assert none.doubt is None and replace(none, detections=0, matched=0).doubt is None
    less = replace(none, matched=8)
    assert less.doubt == "of the model's detections less than 90% are found again"
    assert replace(less, share=FOUND_AGAIN["int8"]).doubt is None
    assert "1 of 1 detection" in comparison(0.4, 0.3).lines()[0]
