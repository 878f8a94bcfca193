"""TIDE's errors and what they cost are tidecv's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from maskrcnn.evaluation.report.overlaps import measure
from maskrcnn.evaluation.report.tide import Tide, tide
from tests.evaluation.random_cases import outline_case, random_case
from tests.evaluation.report.cases import case_of, overlaps_of
from tests.evaluation.report.peers import recorded, run_tidecv
from tests.evaluation.test_coco import tiny

CASES = {"random": random_case, "outline": outline_case}


def check(found: Tide | None, expected: dict[str, Any]) -> None:
    assert found is not None
    ours = asdict(found)
    assert ours["counts"] == expected["counts"]
    assert ours["costs"] == pytest.approx(expected["costs"], abs=1e-12)
    for name in ("ap", "false_positive", "false_negative"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-12)


@pytest.mark.parametrize("cap", [10, 100])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("name", CASES)
def test_numbers_that_tidecv_gave(name: str, kind: Any, cap: int) -> None:
    case = case_of(*CASES[name](7), kind)
    try:
        theirs = run_tidecv(case, cap)
    except ImportError:
        theirs = None
    check(tide(measure(case), cap), recorded(f"tidecv {name} {kind} {cap}", theirs))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(10))
def test_tidecv_where_it_is_installed(seed: int, kind: Any) -> None:
    pytest.importorskip("tidecv", reason="tidecv is not installed")
    case = case_of(*random_case(seed), kind)
    check(tide(measure(case)), run_tidecv(case, 100))


def test_each_kind_of_error_is_recognised() -> None:
    content = tiny(images=2)  # squares of 12 px, x at 5, 30, 55, 80; categories 4, 9, 4, 9
    content["annotations"] = content["annotations"][:4]  # none on the second image

    def box(x: float, category: int, score: float, image: int = 10) -> dict[str, Any]:
        return {"image_id": image, "category_id": category, "bbox": [x, 10.0, 12.0, 12.0], "score": score}

    results = [
        box(5, 4, 0.9),  # right
        box(5, 4, 0.8),  # found already
        box(30, 4, 0.7),  # of the class 9
        box(61, 4, 0.6),  # half beside: IoU 1/3
        box(86, 4, 0.5),  # beside, and of the class 9
        box(100, 9, 0.4),  # nothing there
        box(5, 4, 0.3, image=11),
    ]
    found = tide(overlaps_of(content, results, "bbox"))
    assert found is not None
    # The object at 80 is explained by no error that can be mended, so it is missed.
    names = ("class", "location", "both", "duplicate", "background", "missed")
    assert found.counts == dict(zip(names, (1, 1, 1, 1, 2, 1), strict=True))
    assert all(found.costs[name] >= 0 for name in names)
    assert found.costs["location"] > 0


def test_of_two_objects_of_one_iou_the_first_is_found() -> None:
    content = tiny(images=1, each=2)
    for annotation, x in zip(content["annotations"], (10.0, 14.0), strict=True):
        annotation |= {"category_id": 4, "bbox": [x, 10.0, 12.0, 12.0]}
    shared = {"image_id": 10, "category_id": 4}
    results = [  # between the two, and at the first
        shared | {"bbox": [12.0, 10.0, 12.0, 12.0], "score": 0.9},
        shared | {"bbox": [8.0, 10.0, 12.0, 12.0], "score": 0.8},
    ]
    found = tide(overlaps_of(content, results, "bbox"))
    assert found is not None
    assert (found.counts["duplicate"], found.counts["missed"]) == (1, 1)


def test_nothing_to_judge() -> None:
    content = {**tiny(), "annotations": []}
    assert tide(overlaps_of(content, [], "bbox")) is None
