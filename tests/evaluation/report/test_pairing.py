"""Which detection finds which object, by COCO's rule, at all thresholds and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation.backends import run
from maskrcnn.evaluation.report.overlaps import measure
from maskrcnn.evaluation.report.pairing import THRESHOLDS, pair
from tests.evaluation.random_cases import random_case
from tests.evaluation.report.cases import case_of


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [8, 9])
def test_every_match_is_pycocotools(seed: int, kind: Any) -> None:
    """Each detection's object, and whether it counts, at each threshold and size."""
    case = case_of(*random_case(seed), kind)
    evaluator = run(case, [4], "pycocotools")
    found = measure(case)
    pairing = pair(found, 4)
    place = {int(r): i for i, r in enumerate(found.row)}
    chosen = np.full((4, 10, len(found.score)), -1)
    chosen[..., pairing.rows] = pairing.chosen
    areas = [list(bounds) for bounds in evaluator.params.areaRng]
    seen = 0
    for record in filter(None, evaluator.evalImgs):
        area = areas.index(list(record["aRng"]))
        for column, detection in enumerate(record["dtIds"]):
            d = place[detection - 1]
            mine = chosen[area, :, d]
            matched = np.where(mine < 0, 0, found.annotation[mine] + 1)
            assert np.array_equal(matched, record["dtMatches"][:, column])
            ignored = np.where(mine < 0, pairing.outside[area, d], pairing.skipped[area][mine])
            assert np.array_equal(ignored, record["dtIgnore"][:, column].astype(bool))
            seen += int((mine >= 0).sum())
    assert seen > 100
    assert THRESHOLDS.tolist() == evaluator.params.iouThrs.tolist()


def test_flags_leave_out_what_counts_nowhere() -> None:
    case = case_of(*random_case(8), "bbox")
    found = measure(case)
    pairing = pair(found, 4)
    right, wrong = pairing.flags(0, 0)
    assert not (right & wrong).any()
    assert not (right | wrong)[(found.rank >= 4) | (found.label < 0)].any()
    spared = ~(right | wrong) & (found.rank < 4) & (found.label >= 0)
    assert 0 < spared.sum() == pairing.ignored(0, 0).sum()  # in a crowd
    assert right.sum() == pairing.right(0, 0).sum() > 0


def test_a_class_s_detections_fall_by_score() -> None:
    case = case_of(*random_case(8), "bbox")
    found = measure(case)
    listed = []
    for k, mine, places in pair(found, 4).by_class():
        assert (found.label[mine] == k).all()
        assert (np.diff(found.score[mine]) <= 0).all()
        assert np.array_equal(places >= 0, np.isin(mine, pair(found, 4).rows))
        listed += mine.tolist()
    assert sorted(listed) == np.flatnonzero((found.label >= 0) & (found.rank < 4)).tolist()
