"""Which images and instances come first, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation.report.figures import OUTCOMES, Outcomes
from maskrcnn.evaluation.report.pairing import pair
from maskrcnn.evaluation.report.rankings import (
    MOST_LABELS,
    confident_errors,
    image_counts,
    image_f1,
    label_errors,
    outcomes,
    ranked_images,
    used_objects,
)
from maskrcnn.evaluation.report.tide import errors_of
from maskrcnn.evaluation.report.working_points import shown
from tests.evaluation.random_cases import random_case
from tests.evaluation.report.cases import overlaps_of
from tests.evaluation.test_coco import tiny


def outcome_of(content: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Any, Outcomes]:
    pairing = pair(overlaps_of(content, results, "bbox"), 100)
    errors = errors_of(pairing.overlaps, pairing.flags(0, 0)[0], used_objects(pairing))
    return pairing, outcomes(pairing, errors)


def box(x: float, category: int, score: float, image: int = 10) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [x, 10.0, 12.0, 12.0], "score": score}


#: Of ``tiny()``: squares of 12 px at x = 5, 30, 55, 80, of the classes 4, 9, 4, 9 (labels 0, 1, 0, 1).
FOUND = [
    box(5, 4, 0.9),
    box(5, 4, 0.85),
    box(30, 4, 0.8),
    box(61, 4, 0.7),
    box(100, 9, 0.6),
    box(100, 77, 0.95),  # a class that is not there
    *(box(x, category, 0.99, image=11) for x, category in ((5, 4), (30, 9), (55, 4), (80, 9))),
]


def test_what_became_of_each() -> None:
    _, found = outcome_of(tiny(), FOUND)
    told = {
        (int(found.result[i]), OUTCOMES[found.outcome[i]], int(found.truth[i]), round(float(found.iou[i]), 3))
        for i in range(len(found.result))
    }
    assert told == {
        (0, "right", 0, 1.0),
        (1, "duplicate", 0, 1.0),
        (2, "class", 1, 1.0),
        (3, "location", 2, 0.333),
        (4, "background", -1, 0.0),
        (5, "background", -1, 0.0),
        *((6 + i, "right", 4 + i, 1.0) for i in range(4)),
    }
    assert found.annotation[found.found >= 0].tolist() == [1, 5, 6, 7, 8]
    assert found.best[:4] == pytest.approx([1, 1, 1 / 3, 0])


def test_confident_errors_fall_by_score() -> None:
    _, found = outcome_of(tiny(), FOUND)
    rows = confident_errors(found)
    assert [(r["result"], r["outcome"], r["annotation_id"]) for r in rows] == [
        (5, "background", None),
        (1, "duplicate", 1),
        (2, "class", 2),
        (3, "location", 3),
        (4, "background", None),
    ]
    assert rows[0] == {
        "result": 5,
        "image_id": 10,
        "label": None,
        "score": 0.95,
        "outcome": "background",
        "annotation_id": None,
        "iou": 0.0,
    }


def test_images_from_the_worst_to_the_best() -> None:
    content = tiny(images=4)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 13]  # nothing there
    pairing, _ = outcome_of(content, FOUND)
    seen = shown(pairing.overlaps, {"four": 0.75})
    rows = ranked_images(pairing, seen)
    assert [r["image_id"] for r in rows] == [12, 10, 11]
    assert rows[0] == {"image_id": 12, "f1": 0.0, "right": 0, "wrong": 0, "objects": 4, "missed": 4}
    # Shown are 0.9, 0.85, 0.8 and the 0.6 of the class without a threshold.
    assert rows[1] == {"image_id": 10, "f1": 0.25, "right": 1, "wrong": 3, "objects": 4, "missed": 3}
    assert rows[2]["f1"] == 1.0


def test_counts_of_images_fit_the_whole() -> None:
    pairing, _ = outcome_of(*random_case(3))
    right, wrong = pairing.flags(0, 0)
    counts = image_counts(pairing.overlaps, right, wrong, np.ones_like(right))
    assert counts["right"].sum() == right.sum()
    assert counts["wrong"].sum() == wrong.sum()
    assert counts["objects"].sum() == (~pairing.overlaps.crowd).sum()
    assert (counts["missed"] >= 0).all()
    f1 = image_f1(counts)
    assert np.nanmax(f1) <= 1


def test_likely_label_errors() -> None:
    _, found = outcome_of(tiny(), FOUND)
    seen = found.score >= 0.65
    rows = label_errors(found, seen, recalls=np.array([0.9, 0.6, np.nan]))
    told = [
        (r["type"], r["image_id"], r["annotation_id"], r["result"], r["label"], r["predicted"]) for r in rows
    ]
    assert told[:2] == [
        ("unlabelled", 10, None, 5, None, None),  # 0.95
        ("unfound", 12, 9, None, 0, None),  # 0.9, of a class that is found nearly always
    ]
    assert ("class", 10, 2, 2, 1, 0) in told  # 0.8
    assert ("unfound", 10, 4, None, 1, None) in told  # 0.6 of the class 9: nothing comes near
    assert not any(t[:3] == ("unfound", 10, 2) for t in told)  # something lies right upon it
    assert all(r["score"] is None for r in rows if r["type"] == "unfound")
    assert len(label_errors(found, np.zeros_like(seen), np.full(3, np.nan))) == 0


def test_lists_are_capped() -> None:
    many = [box(100, 9, 0.5 + i / 1000) for i in range(90)]
    content = tiny(images=1)
    _, found = outcome_of(content, many * 2 + [r | {"category_id": 4} for r in many * 2])
    assert len(confident_errors(found)) == 200  # 100 a class take part
    assert len(label_errors(found, np.ones(200, dtype=bool), np.zeros(3))) == MOST_LABELS
