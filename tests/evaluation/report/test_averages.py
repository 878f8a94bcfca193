"""AP by the report's own pairing is pycocotools' to the bit, and resampled AP that of the images so drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation import evaluate_coco
from maskrcnn.evaluation.backends import run
from maskrcnn.evaluation.report.averages import mean, precisions, resamples, sampled
from maskrcnn.evaluation.report.overlaps import measure
from maskrcnn.evaluation.report.pairing import pair
from tests.evaluation.random_cases import random_case
from tests.evaluation.report.cases import case_of, overlaps_of


@pytest.mark.parametrize("cap", [3, 100])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_precisions_are_pycocotools_to_the_bit(seed: int, kind: Any, cap: int) -> None:
    case = case_of(*random_case(seed), kind)
    theirs = np.asarray(run(case, [cap], "pycocotools").eval["precision"])[..., 0]
    pairing = pair(measure(case), cap)
    for area in range(4):
        ours = np.nan_to_num(precisions(pairing, area), nan=-1)
        assert np.array_equal(ours, theirs[..., area])
    assert theirs.max() > 0


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_resampled_ap_is_that_of_the_plain_definition(kind: Any) -> None:
    content, results = random_case(5)
    found = overlaps_of(content, results, kind)
    weights = resamples(len(found.image_ids), 20, seed=3)
    samples = sampled(pair(found, 100), weights)
    plain = evaluate_coco(content, results, (kind,), matches=True).matches[kind]
    for row, times in enumerate(weights.tolist()):
        expected = plain.average_precision(dict(zip(found.image_ids.tolist(), times, strict=True)))
        assert mean(samples.precision[0, row]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_every_image_once_is_the_evaluation_itself(kind: Any) -> None:
    content, results = random_case(6)
    found = overlaps_of(content, results, kind)
    samples = sampled(pair(found, 100), np.ones((1, len(found.image_ids)), dtype=np.int32))
    figures = evaluate_coco(content, results, (kind,)).figures[kind]
    for area, letter in enumerate(["", "s", "m", "l"]):
        assert mean(samples.precision[area]) == pytest.approx(figures["AP" + letter], abs=1e-12)
        assert mean(samples.recall[area]) == pytest.approx(figures[f"AR{letter or 100}"], abs=1e-12)
    assert mean(samples.precision[0, :, 0]) == pytest.approx(figures["AP50"], abs=1e-12)


def test_resamples_draw_as_many_images_by_the_seed() -> None:
    drawn = resamples(40, 200, seed=1)
    assert (drawn.sum(axis=1) == 40).all()
    assert np.array_equal(drawn, resamples(40, 200, seed=1))
    assert not np.array_equal(drawn, resamples(40, 200, seed=2))
    assert drawn.mean(axis=0) == pytest.approx(np.ones(40), abs=0.3)
