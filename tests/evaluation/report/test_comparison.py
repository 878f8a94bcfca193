"""Two runs compared: changes with paired intervals, and the images where they differ most."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from maskrcnn.evaluation import evaluate_coco
from maskrcnn.evaluation.coco import read_truth
from maskrcnn.evaluation.report.comparison import ComparedFigures, compare_runs
from maskrcnn.evaluation.report.make import report_figures
from tests.evaluation.random_cases import random_case

KINDS: Any = ("bbox", "segm")


def compared(first: list[dict[str, Any]], second: list[dict[str, Any]], **options: Any) -> ComparedFigures:
    truth = read_truth(random_case(2)[0], KINDS)
    evaluated = [evaluate_coco(truth, results, KINDS) for results in (first, second)]
    return compare_runs(truth, (first, second), evaluated, **{"resamples": 100, **options})


def blurred(results: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """A part of the detections, drawn by chance, moved away."""
    rng = np.random.default_rng(0)
    return [r | {"bbox": [0.0, 0.0, 2.0, 2.0]} if rng.random() < share else r for r in results]


def test_a_run_does_not_differ_from_itself() -> None:
    results = random_case(2)[1]
    found = compared(results, results)
    for kind in KINDS:
        assert found.figures[kind]["AP"]["value"] == 0
        for change in found.figures[kind].values():
            assert change["low"] in (0, None)
            assert change["high"] in (0, None)
    assert found.images_ranked == []


def test_changes_are_of_the_figures_and_their_intervals_are_paired() -> None:
    content, results = random_case(2)
    worse = blurred(results, 0.8)
    found = compared(results, worse)
    truth = read_truth(content, KINDS)
    first, second = (evaluate_coco(truth, r, KINDS) for r in (results, worse))
    change = found.figures["bbox"]["AP"]
    before, after = first.figures["bbox"]["AP"], second.figures["bbox"]["AP"]
    assert before is not None and after is not None
    assert (change["first"], change["second"], change["value"]) == (before, after, after - before)
    assert change["low"] < change["value"] < change["high"] < 0
    assert found.figures["segm"]["AP"]["value"] == 0  # masks are as they were
    alone = report_figures(truth, results, first, resamples=100).figures["bbox"]["AP"]
    assert change["high"] - change["low"] < alone["high"] - alone["low"]
    names = [row["name"] for row in found.classes["bbox"]]
    assert names == list(truth.category_names)
    for row, a, b in zip(
        found.classes["bbox"], first.per_class["bbox"], second.per_class["bbox"], strict=True
    ):
        assert (row["AP"]["first"], row["AP"]["second"]) == (a.figures["AP"], b.figures["AP"])
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()


def test_images_where_runs_differ_stand_first() -> None:
    content, results = random_case(2)
    target = content["images"][0]["id"]
    found = compared(results, [r for r in results if r["image_id"] != target])
    row = found.images_ranked[0]
    assert row["image_id"] == target
    assert row["second"] == 0.0
    assert row["change"] == -row["first"] < 0
    changes = [abs(r["change"]) for r in found.images_ranked]
    assert changes == sorted(changes, reverse=True)


def test_progress_names_the_run() -> None:
    results = random_case(2)[1]
    told: list[str] = []
    compared(results, results, progress=lambda what, share: told.append(what))
    assert set(told) == {f"run {n}, {kind}" for n in (1, 2) for kind in KINDS}
