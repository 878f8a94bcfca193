"""hotcoco gives pycocotools' precisions, recalls and scores to the bit, on what makes evaluators differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation.backends import Case, run
from maskrcnn.evaluation.coco import read_truth
from maskrcnn.evaluation.detections import read_detections
from maskrcnn.evaluation.oks import count_keypoints
from tests.evaluation.random_cases import random_case

pytest.importorskip("hotcoco", reason="hotcoco is not installed")


def arrays(case: Case, caps: list[int], backend: str, use_categories: bool) -> dict[str, Any]:
    found = run(case, caps, backend, use_categories).eval
    return {name: np.asarray(found[name]) for name in ("precision", "recall", "scores")}


# pycocotools has no keypoints without categories.
@pytest.mark.parametrize(
    ("iou_type", "use_categories"),
    [("bbox", True), ("bbox", False), ("segm", True), ("segm", False), ("keypoints", True)],
)
@pytest.mark.parametrize("seed", range(4))
def test_hotcoco_is_pycocotools_to_the_bit(seed: int, iou_type: Any, use_categories: bool) -> None:
    joints = {0: 17, 1: 17, 2: 5, 3: 1}[seed] if iou_type == "keypoints" else 0
    content, results = random_case(seed, joints)
    truth = read_truth(content, (iou_type,))
    assert truth.notes == ()
    ids = sorted(i["id"] for i in content["images"])[: 12 - seed]
    if joints:
        assert count_keypoints(truth) == joints
    found = read_detections(results, truth, (iou_type,), ids, joints)
    sigmas = np.linspace(0.03, 0.1, joints) if joints not in (0, 17) else None
    places = np.array([truth.image_places[i] for i in ids])
    case = Case(truth, found, iou_type, places, sigmas)
    caps = [20] if joints else [1, 10, 100, 150]
    ours, theirs = (arrays(case, caps, b, use_categories) for b in ("hotcoco", "pycocotools"))
    for name, values in theirs.items():
        assert values.dtype == ours[name].dtype == np.float64
        assert ours[name].shape == values.shape
        assert np.array_equal(ours[name], values), name
    assert 0 < theirs["precision"].max() <= 1


def test_a_tie_of_scores_is_broken_by_the_order_of_the_results() -> None:
    """The two detections of one score exchanged give other precisions: the order reaches the evaluator."""
    content, _ = random_case(0)
    truth = read_truth(content, ("bbox",))
    target = next(a for a in content["annotations"] if not a["iscrowd"])
    good = {"image_id": target["image_id"], "category_id": target["category_id"], "score": 0.5}
    pair = [{**good, "bbox": target["bbox"]}, {**good, "bbox": [0.0, 0.0, 1.0, 1.0]}]
    best = []
    for results in (pair, pair[::-1]):
        found = read_detections(results, truth, ("bbox",), truth.image_ids.tolist())
        case = Case(truth, found, "bbox", np.arange(12))
        best.append(np.asarray(run(case, [1, 10, 100], "hotcoco").eval["precision"])[..., 0, :].max())
    assert best == pytest.approx([1.0, 0.5])
