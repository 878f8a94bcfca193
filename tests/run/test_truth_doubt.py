"""The truth as predictions scores AP 1, or it is told why not; and the advice is one that a config takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskrcnn.evaluation.eval_result import check_metric
from maskrcnn.recipe import load_recipe
from maskrcnn.run.truth_doubt import truth_doubt
from tests.data.doctor.scenes import content, dataset, octagon
from tests.engine.tiny import write_recipe


def test_sound_data_score_one(tmp_path: Path) -> None:
    assert truth_doubt(dataset(tmp_path), ("bbox", "segm"), 100) is None


def test_data_without_objects_have_no_score(tmp_path: Path) -> None:
    assert truth_doubt(dataset(tmp_path, content() | {"annotations": []}), ("bbox", "segm"), 100) is None


def test_a_mask_of_nothing_is_never_found(tmp_path: Path) -> None:
    source = content()
    source["annotations"][1]["segmentation"] = [[60.0, 20, 60, 60, 60, 70]]
    doubt = truth_doubt(dataset(tmp_path, source), ("bbox", "segm"), 100)
    assert doubt is not None
    assert (doubt.ids, doubt.count, doubt.total) == ((2,), 1, 2)
    # Of one of two classes one of six objects is missed, and its mask is a false one: precision 5/6 up to
    # a recall of 5/6.
    score = float(re.findall(r"scores segm/AP ([\d.]+)", doubt.cost)[0])
    assert score == pytest.approx((1 + 5 / 6 * 84 / 101) / 2, abs=1e-3)
    assert truth_doubt(dataset(tmp_path, source), ("bbox",), 100) is None


def test_more_than_a_hundred_of_a_class_are_told_with_a_figure_that_counts_them(tmp_path: Path) -> None:
    source = content(2)
    for k in range(119):
        x, y = 6 + 8.5 * (k % 14), 6 + 8.5 * (k // 14)
        box = {"bbox": [x - 4, y - 4, 8, 8], "segmentation": [octagon(x, y, 4)], "area": 45}
        source["annotations"].append(source["annotations"][0] | box | {"id": 1000 + k})
    doubt = truth_doubt(dataset(tmp_path, source), ("bbox", "segm"), 100)
    assert doubt is not None and "has up to 120 objects of a class" in doubt.advice
    settings = re.findall(r"([a-z_.]+): ([\w/@]+)", doubt.advice.partition("set ")[2])
    recipe = load_recipe(write_recipe(tmp_path), [f"{key}={value}" for key, value in settings])
    assert recipe.model.roi.max_detections == 120
    check_metric(recipe.eval.best_metric, ("bbox", "segm"), recipe.model.roi.max_detections)
    again = truth_doubt(dataset(tmp_path, source), ("bbox", "segm"), 120)
    assert again is not None and "(AP@120: 1.000)" in again.cost
    # Who followed the advice is not told again.
    by = recipe.model.roi.max_detections, recipe.eval.best_metric
    assert truth_doubt(dataset(tmp_path, source), ("bbox", "segm"), *by) is None
