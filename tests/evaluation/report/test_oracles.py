"""Oracles are what an evaluation of the changed detections gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation import evaluate_coco
from maskrcnn.evaluation.backends import Case
from maskrcnn.evaluation.coco import read_truth
from maskrcnn.evaluation.detections import read_detections
from maskrcnn.evaluation.report.oracles import Row, oracles
from maskrcnn.evaluation.report.overlaps import Overlaps, measure
from maskrcnn.evaluation.report.pairing import pair
from maskrcnn.evaluation.report.rankings import used_objects
from maskrcnn.evaluation.report.tide import ERRORS, Errors, errors_of
from tests.evaluation.random_cases import random_case
from tests.evaluation.test_coco import square, tiny

Content = dict[str, Any]


@pytest.fixture(params=["bbox", "segm"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def measured(content: Content, results: Sequence[Any], kind: Any) -> tuple[Overlaps, Errors, dict[str, Row]]:
    truth = read_truth(content, ("bbox", "segm"))
    columns = read_detections(results, truth, {kind, "bbox"}, truth.image_ids.tolist())
    found = measure(Case(truth, columns, kind, np.arange(len(truth.image_ids))))
    pairing = pair(found, 100)
    errors = errors_of(found, pairing.flags(0, 0)[0], used_objects(pairing))
    return found, errors, oracles(pairing, errors, columns)


def figures(content: Content, results: Sequence[Any], kind: Any) -> Row:
    found = evaluate_coco(content, results, (kind,)).figures[kind]
    return {"AP": found["AP"], "AP50": found["AP50"]}


def test_now_is_the_evaluation(kind: Any) -> None:
    content, results = random_case(0)
    assert measured(content, results, kind)[2]["now"] == figures(content, results, kind)


def test_perfect_boxes_and_masks_are_those_of_the_objects(kind: Any) -> None:
    content = tiny()  # squares of 12 px that lie apart
    rng = np.random.default_rng(0)
    moved, exact = [], []
    for annotation in content["annotations"]:
        for _ in range(2):
            x, y = (np.array(annotation["bbox"][:2]) + rng.uniform(0, 6, 2)).tolist()
            kept = {name: annotation[name] for name in ("image_id", "category_id")} | {"score": rng.random()}
            moved.append(kept | {"bbox": [x, y, 12.0, 12.0], "segmentation": square(x, y, 12.0)})
            exact.append(kept | {name: annotation[name] for name in ("bbox", "segmentation")})
    moved.append(moved[0] | {"bbox": [100.0, 80.0, 5.0, 5.0], "segmentation": square(100.0, 80.0, 5.0)})
    exact.append(moved[-1])  # near no object
    rows = measured(content, moved, kind)[2]
    expected = figures(content, exact, kind)
    assert rows["boxes" if kind == "bbox" else "masks"] == expected
    assert (expected["AP"] or 0) > (rows["now"]["AP"] or 0) > 0


def test_masks_in_perfect_boxes_keep_what_is_wrong_inside() -> None:
    content = tiny()  # squares of 12 px
    results = []
    for annotation in content["annotations"]:
        x, y = annotation["bbox"][:2]
        # Half as large and elsewhere: in the true box the square fills it; its right half alone never does.
        whole = len(results) % 2 == 0
        part = (
            square(x + 3, y + 2, 8.0)
            if whole
            else [[x + 7, y + 2, x + 11, y + 2, x + 11, y + 10, x + 7, y + 10]]
        )
        kept = {name: annotation[name] for name in ("image_id", "category_id")} | {"score": 0.9}
        results.append(kept | {"bbox": [x + 3, y + 2, 8.0, 8.0], "segmentation": part})
    rows = measured(content, results, "segm")[2]
    exact = [
        r | {"segmentation": a["segmentation"] if i % 2 == 0 else _right_half(a), "bbox": a["bbox"]}
        for i, (r, a) in enumerate(zip(results, content["annotations"], strict=True))
    ]
    assert rows["boxes"] == figures(content, exact, "segm")
    assert rows["now"]["AP"] != rows["boxes"]["AP"] != rows["masks"]["AP"]


def _right_half(annotation: dict[str, Any]) -> list[list[float]]:
    x, y, width, height = annotation["bbox"]
    return [[x + width / 2, y, x + width, y, x + width, y + height, x + width / 2, y + height]]


def test_perfect_classes(kind: Any) -> None:
    content, results = random_case(0)
    found, _, rows = measured(content, results, kind)
    pairs = found.pairs.select(~found.of_crowd & (found.pairs.iou >= 0.5))
    changed = [dict(r) for r in results]
    for d, p in enumerate(pairs.best(len(found.score)).tolist()):
        if p >= 0:
            place = found.annotation[pairs.wanted[p]]
            changed[found.result[d]]["category_id"] = found.truth.category_ids[found.truth.labels[place]]
    assert rows["classes"] == figures(content, changed, kind)


def test_without_background_and_duplicates(kind: Any) -> None:
    content, results = random_case(0)
    found, errors, rows = measured(content, results, kind)
    for name in ("background", "duplicate"):
        gone = set(found.result[errors.kind == ERRORS.index(name)].tolist())
        kept = [r for i, r in enumerate(results) if i not in gone]
        row = rows["no_background" if name == "background" else "no_duplicates"]
        assert len(gone) > 0
        assert row == figures(content, kept, kind)


def test_all_found(kind: Any) -> None:
    content, results = random_case(0)
    _, _, rows = measured(content, results, kind)
    met = set(evaluate_coco(content, results, (kind,), matches=True).matches[kind].annotation_id[0].tolist())
    kept = [a for a in content["annotations"] if a["id"] in met or a["iscrowd"]]
    assert len(kept) < len(content["annotations"])
    assert rows["all_found"]["AP50"] == figures({**content, "annotations": kept}, results, kind)["AP50"]
    assert (rows["all_found"]["AP"] or 0) > (rows["now"]["AP"] or 0)


def test_perfect_scores_put_the_right_before_the_wrong(kind: Any) -> None:
    content, results = random_case(0)
    _, _, rows = measured(content, results, kind)
    matches = evaluate_coco(content, results, (kind,), matches=True).matches[kind]
    right = set(matches.result_index[(matches.matched & ~matches.ignored)[0]].tolist())
    changed = [r | {"score": r["score"] + 2 * (i in right)} for i, r in enumerate(results)]
    assert rows["scores"]["AP50"] == pytest.approx(figures(content, changed, kind)["AP50"], abs=1e-12)
    assert (rows["scores"]["AP"] or 0) > (rows["now"]["AP"] or 0)


def test_perfect_results_leave_nothing_to_gain() -> None:
    content, _ = random_case(0)
    rng = np.random.default_rng(0)
    # Objects far enough apart: two of one place are two objects, and one detection each.
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": rng.random()}
        for a in content["annotations"]
        if not a["iscrowd"]
    ]
    rows = measured(content, results, "bbox")[2]
    assert {name: row["AP50"] for name, row in rows.items()} == pytest.approx(
        dict.fromkeys(rows, 1.0), abs=0.02
    )
