"""Curves of precision against recall."""

from __future__ import annotations

import numpy as np

from maskrcnn.evaluation import evaluate_coco, ground_truth_results
from maskrcnn.viz.palette import BLUE, GREEN, VERMILLION
from maskrcnn.viz.precision_recall import draw_precision_recall
from tests.data.files import coco


def pixels_of(picture: np.ndarray, colour: str) -> int:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture.astype(int) - rgb) < 50).all(axis=2).sum())  # edges are smoothed


def test_a_panel_a_kind_and_a_curve_for_each_class_with_ground_truth() -> None:
    values = np.full((101, 3), np.nan)
    values[:, 0], values[:, 2] = 0.9, np.linspace(1, 0, 101)
    one = draw_precision_recall({"segm": values}, ["a", "b", "c"], [1, 0, 5])
    two = draw_precision_recall({"segm": values, "bbox": values}, ["a", "b", "c"], [1, 0, 5])
    assert one.dtype == np.uint8 and one.shape[2] == 3
    assert two.shape[1] == 2 * one.shape[1]
    assert pixels_of(one, BLUE) > 0 and pixels_of(one, VERMILLION) > 0 and pixels_of(one, GREEN) == 0
    alone = draw_precision_recall({"segm": values[:, :1]}, ["a"], [1])
    assert pixels_of(alone, BLUE) == 0  # the mean says all


def test_classes_without_any_truth_leave_the_panel_empty() -> None:
    empty = draw_precision_recall({"bbox": np.full((101, 2), np.nan)}, ["a", "b"], [0, 0])
    assert pixels_of(empty, BLUE) == 0


def test_an_evaluation_gives_them_and_ap_by_class() -> None:
    result = evaluate_coco(coco(), ground_truth_results(coco()))
    for kind in ("bbox", "segm"):
        entries = result.per_class[kind]
        assert result.precision[kind].shape == (101, len(entries))
        for k, entry in enumerate(entries):
            mean = result.precision[kind][:, k].mean()
            if entry.figures["AP50"] is None:
                assert np.isnan(mean) and f"{kind}/AP/{entry.name}" not in result.class_scalars()
            else:
                np.testing.assert_allclose(mean, entry.figures["AP50"])
                assert result.class_scalars()[f"{kind}/AP/{entry.name}"] == entry.figures["AP"]
    assert "precision" not in result.as_json()
