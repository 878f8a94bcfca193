"""F1 and thresholds, calibration, confusion: by the plain definitions, and hotcoco's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation.backends import run
from maskrcnn.evaluation.report.overlaps import Overlaps, measure
from maskrcnn.evaluation.report.pairing import Pairing, pair
from maskrcnn.evaluation.report.working_points import (
    SCORES,
    calibration,
    confusion,
    f1_figures,
    shown,
)
from tests.evaluation.random_cases import outline_case, random_case
from tests.evaluation.report.cases import case_of, overlaps_of
from tests.evaluation.test_coco import tiny


def paired(seed: int, kind: Any = "bbox") -> tuple[Overlaps, Pairing]:
    found = overlaps_of(*random_case(seed), kind)
    return found, pair(found, 100)


def at_score(pairing: Pairing, label: int | None, score: float) -> tuple[int, int, int]:
    """Right, wrong and objects of a class (None: of all), of the detections of that score and better."""
    found = pairing.overlaps
    right, wrong = pairing.flags(0, 0)
    mine = (found.score >= score) & (True if label is None else found.label == label)
    held = ~found.crowd & (True if label is None else found.object_label == label)
    return int((right & mine).sum()), int((wrong & mine).sum()), int(held.sum())


def test_f1_at_every_score_and_the_best_of_all() -> None:
    found, pairing = paired(3)
    made = f1_figures(pairing)
    for label, one in [(None, made["all"]), *enumerate(made["classes"])]:
        plain = {}
        for score in sorted({*SCORES.tolist(), *found.score.tolist()}):
            right, wrong, total = at_score(pairing, label, score)
            plain[score] = 2 * right / (right + wrong + total) if right + wrong + total else np.nan
        curve = one["f1" if label is None else "curve"]
        assert np.array_equal(curve, [plain[s] for s in SCORES.tolist()], equal_nan=True)
        best = one["best_f1" if label is None else "f1"]
        if best is None:
            assert one["score"] is None
            continue
        assert best == max(plain.values())
        last = max(s for s in found.score.tolist() if plain[s] == best)
        counted = np.logical_or(*pairing.flags(0, 0)) & (True if label is None else found.label == label)
        dropped = found.score[counted & (found.score < last)].max(initial=0.0)
        assert one["score"] == pytest.approx((last + dropped) / 2, abs=1e-15)
        assert dropped < one["score"] <= last
        right, wrong, total = at_score(pairing, label, one["score"])
        if label is not None:
            assert one["precision"] == right / (right + wrong)
            assert one["recall"] == right / total
    for at in (20, 70):
        right, wrong, total = at_score(pairing, None, SCORES[at])
        assert made["all"]["precision"][at] == right / (right + wrong)
        assert made["all"]["recall"][at] == right / total
    assert made["classes"][2]["score"] is None  # a class without objects


def test_where_all_are_right_a_little_less_is_kept_too() -> None:
    content = tiny()
    content["annotations"] = content["annotations"][:1]
    one = content["annotations"][0]
    kept = {name: one[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.98}
    pairing = pair(overlaps_of(content, [kept], "bbox"), 100)
    made, label = f1_figures(pairing), int(pairing.overlaps.object_label[0])
    assert made["classes"][label]["f1"] == 1.0
    assert made["classes"][label]["score"] == pytest.approx(0.49)
    wrong = kept | {"bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.6}
    made = f1_figures(pair(overlaps_of(content, [kept, wrong], "bbox"), 100))
    assert made["classes"][label]["score"] == pytest.approx(0.79)


def test_shown_are_those_at_the_threshold_of_their_class() -> None:
    found, _ = paired(3)
    seen = shown(found, {"3": 0.8, "8": 0.2})
    for d in range(len(found.score)):
        assert seen[d] == (found.score[d] >= {0: 0.8, 1: 0.2}.get(int(found.label[d]), 0.5))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_calibration_is_hotcoco_s(seed: int, kind: Any) -> None:
    pytest.importorskip("hotcoco", reason="hotcoco is not installed")
    case = case_of(*random_case(seed), kind)
    theirs = run(case, [1, 10, 100], "hotcoco").calibration()
    ours = calibration(pair(measure(case), 100))
    assert ours["ece"] == pytest.approx(theirs["ece"], abs=1e-12)
    assert ours["mce"] == pytest.approx(theirs["mce"], abs=1e-12)
    names = {"bin_lower": "low", "bin_upper": "high", "count": "count"}
    names |= {"avg_confidence": "confidence", "avg_accuracy": "precision"}
    for mine, other in zip(ours["bins"], theirs["bins"], strict=True):
        assert mine == pytest.approx({names[k]: v for k, v in other.items()}, abs=1e-12)
    each = [theirs["per_category"].get(str(k)) for k in range(4)]
    assert [e for e in ours["classes"] if e] == pytest.approx([e for e in each if e], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_confusion_is_hotcoco_s_where_there_are_no_crowds(seed: int) -> None:
    """hotcoco counts a detection in a crowd as wrong; COCO's evaluation, and ours, as neither."""
    pytest.importorskip("hotcoco", reason="hotcoco is not installed")
    content, results = outline_case(seed)
    rng = np.random.default_rng(seed)
    results = [r | {"category_id": int(rng.integers(1, 3)), "score": float(rng.random())} for r in results]
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    case = case_of(content, results, "segm")
    evaluator = run(case, [1, 10, 100], "hotcoco")
    theirs = evaluator.confusion_matrix(iou_thr=0.5, max_det=1000, min_score=0.3)["matrix"]
    found = measure(case)
    ours = confusion(found, found.score >= 0.3)
    assert np.array_equal(ours["matrix"], theirs)
    assert ours["names"] == ["one", "two", "background"]
    assert theirs[0, 1] > 0 < theirs[2, 0]
    assert sum(p["count"] for p in ours["pairs"]) == theirs.sum() - np.trace(theirs)


def test_confusion_counts_every_object_once_and_no_detection_in_a_crowd() -> None:
    found, _ = paired(1)
    seen = found.score >= 0.3
    matrix = np.array(confusion(found, seen)["matrix"])
    held = np.bincount(found.object_label[~found.crowd], minlength=4)
    assert np.array_equal(matrix[:4].sum(axis=1), held)
    counted = int(matrix[:, :4].sum())
    inside = found.pairs.select(found.of_crowd & (found.pairs.iou >= 0.5)).found
    known = seen & (found.label >= 0)
    assert known.sum() - np.isin(np.flatnonzero(known), inside).sum() <= counted < known.sum()
