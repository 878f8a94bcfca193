"""The figures of a report as a whole: COCO's to the last digit, plain json, and what it takes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation import evaluate_coco
from maskrcnn.evaluation.coco import read_truth
from maskrcnn.evaluation.report.figures import OUTCOMES, ReportFigures
from maskrcnn.evaluation.report.make import report_figures
from tests.evaluation.random_cases import random_case


def report_of(case: int, kinds: Any, cap: int = 100, joints: int = 0, **options: Any) -> ReportFigures:
    content, results = random_case(case, joints)
    truth = read_truth(content, kinds)
    result = evaluate_coco(truth, results, kinds, max_detections=cap)
    return report_figures(truth, results, result, **{"resamples": 20, **options})


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_figures_are_those_of_the_evaluation_to_the_last_digit(backend: Any) -> None:
    if backend == "hotcoco":
        pytest.importorskip("hotcoco", reason="hotcoco is not installed")
    content, results = random_case(2)
    kinds: Any = ("bbox", "segm")
    truth = read_truth(content, kinds)
    result = evaluate_coco(truth, results, kinds, max_detections=120, backend=backend)
    made = report_figures(truth, results, result, resamples=10)
    for kind in kinds:
        figures = made.figures[kind]
        assert {name: value["value"] for name, value in figures.items()} == result.figures[kind]
        assert figures["AP@120"]["low"] is not None
        for row, entry in zip(made.per_class[kind], result.per_class[kind], strict=True):
            assert {name: value["value"] for name, value in row.items()} == entry.figures
        over = made.over_iou[kind]["all"]
        assert over[0] == figures["AP50"]["value"]
        assert over[5] == figures["AP75"]["value"]
        assert np.mean(over) == pytest.approx(figures["AP"]["value"], abs=1e-15)
        curves = np.array(made.precision_recall[kind]["classes"]).T
        assert np.array_equal(curves, result.precision[kind], equal_nan=True)


def test_intervals_hold_their_figures_and_widen_with_fewer_images() -> None:
    made = report_of(3, ("bbox",), resamples=200).figures["bbox"]
    for name, value in made.items():
        if name in ("AR1", "AR10"):
            assert value["low"] is None
        elif value["value"] is not None:
            assert value["low"] < value["value"] < value["high"], name
    again = report_of(3, ("bbox",), resamples=200).figures["bbox"]
    other = report_of(3, ("bbox",), resamples=200, seed=1).figures["bbox"]
    assert again["AP"] == made["AP"] != other["AP"]
    without = report_of(3, ("bbox",), resamples=0).figures["bbox"]
    assert without["AP"] == {"value": made["AP"]["value"], "low": None, "high": None}


def test_everything_is_plain_json() -> None:
    sizes = {i["id"]: (i["height"] // 4, i["width"] // 4) for i in random_case(1)[0]["images"]}
    made = report_of(
        1,
        ("bbox", "segm"),
        network_sizes=sizes,
        proposals={"AR@100": 0.4},
        speed={"images_per_second": 3.5},
        about={"model": "mine"},
    )
    told = made.to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert set(told) == {"version", *ReportFigures.__dataclass_fields__} - {"outcomes"}
    assert made.kind == "segm"
    assert told["proposals"] == {"AR@100": 0.4}
    assert told["speed"]["images_per_second"] == 3.5
    assert told["limits"]["tiny"] > 0
    assert all(told[name] for name in ("f1", "calibration", "confusion", "background", "objects", "boundary"))
    assert all(told[name] for name in ("label_errors", "images_ranked", "confident_errors"))


def test_keypoints_alone_have_coco_s_figures_and_no_overlaps() -> None:
    made = report_of(0, ("keypoints",), joints=17)
    assert made.kind == "keypoints"
    assert made.figures["keypoints"]["AP"]["value"] > 0
    assert made.f1 is made.calibration is made.confusion is made.boundary is made.outcomes is None
    assert made.tide == made.oracles == {}
    assert json.loads(json.dumps(made.to_json(), allow_nan=False))["images"] == 12


def test_boxes_beside_keypoints_are_what_errors_are_of() -> None:
    made = report_of(0, ("bbox", "keypoints"), joints=17)
    assert made.kind == "bbox"
    assert set(made.tide) == {"bbox"}
    assert made.boundary is None


def test_outcomes_fit_the_figures() -> None:
    content, results = random_case(2)
    truth = read_truth(content, ("bbox",))
    result = evaluate_coco(truth, results, ("bbox",), matches=True)
    found = report_figures(truth, results, result, resamples=0).outcomes
    plain = result.matches["bbox"]
    assert found is not None
    order = np.argsort(plain.result_index)
    known = np.flatnonzero(found.label >= 0)
    mine = known[np.argsort(found.result[known])]
    assert np.array_equal(found.result[mine], plain.result_index[order])
    right = found.outcome[mine] == OUTCOMES.index("right")
    assert np.array_equal(right, (plain.matched & ~plain.ignored)[0, order])
    assert np.array_equal(found.annotation[found.truth[mine[right]]], plain.annotation_id[0, order][right])
    ignored = found.outcome[mine] == OUTCOMES.index("ignored")
    assert np.array_equal(ignored, plain.ignored[0, order])
    for place, detection in enumerate(found.found.tolist()):
        assert detection < 0 or found.truth[detection] == place
    assert (found.iou[found.truth >= 0] >= 0.1).all()
    assert (found.iou[found.truth < 0] == 0).all()


def test_no_results_and_no_objects() -> None:
    content, results = random_case(4)
    empty = {**content, "annotations": []}
    for data, found in ((content, []), (empty, results), (empty, [])):
        truth = read_truth(data, ("bbox", "segm"))
        result = evaluate_coco(truth, found, ("bbox", "segm"))
        made = report_figures(truth, found, result, resamples=5)
        json.dumps(made.to_json(), allow_nan=False)
        assert made.thresholds == {}
        assert made.figures["segm"]["AP"]["value"] == (0 if data is content else None)


def test_some_images_alone() -> None:
    content, results = random_case(4)
    truth = read_truth(content, ("bbox",))
    ids = truth.image_ids.tolist()[::2]
    result = evaluate_coco(truth, results, ("bbox",), image_ids=ids)
    made = report_figures(truth, results, result, image_ids=ids, resamples=5)
    assert made.figures["bbox"]["AP"]["value"] == result.figures["bbox"]["AP"]
    assert made.over_iou["bbox"]["all"][0] == result.figures["bbox"]["AP50"]
    assert {row["image_id"] for row in made.images_ranked} <= set(ids)


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    report_of(0, ("bbox", "segm"), progress=lambda what, share: told.append((what, share)))
    assert {what for what, share in told if share == 1.0} == {
        *("overlaps of boxes", "overlaps of masks", "intervals of boxes", "intervals of masks"),
        "boundaries of masks",
    }
