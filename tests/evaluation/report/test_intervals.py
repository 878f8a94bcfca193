"""Intervals hold their figure, and what is drawn has COCO's names."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.evaluation.report.averages import mean, resamples, sampled
from maskrcnn.evaluation.report.intervals import LEVEL, Intervals, interval
from maskrcnn.evaluation.report.pairing import pair
from tests.evaluation.random_cases import random_case
from tests.evaluation.report.cases import overlaps_of


def test_the_spread_of_the_resamples_lies_around_the_figure() -> None:
    drawn = np.random.default_rng(0).normal(0.5, 0.1, 100_000)  # biased by 0.2
    found = interval(0.3, drawn)
    assert LEVEL == 0.95
    assert found["value"] == 0.3
    assert (found["low"], found["high"]) == pytest.approx((0.3 - 0.196, 0.3 + 0.196), abs=0.002)
    assert interval(0.02, drawn)["low"] == 0.0
    assert interval(-0.3, drawn - 0.8, least=-1.0)["low"] == pytest.approx(-0.496, abs=0.002)


def test_what_is_not_defined_has_none() -> None:
    assert interval(None, np.ones(3)) == {"value": None, "low": None, "high": None}
    assert interval(0.5, None) == {"value": 0.5, "low": None, "high": None}
    assert interval(0.5, np.full(3, np.nan))["low"] is None
    assert interval(0.5, np.array([np.nan, 0.5])) == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_figures_by_name_are_those_of_the_samples() -> None:
    found = overlaps_of(*random_case(5), "bbox")
    pairing, weights = pair(found, 100), resamples(len(found.image_ids), 7, 0)
    told: list[float] = []
    drawn = Intervals.make(pairing, weights, told.append)
    samples = sampled(pairing, weights)
    for row in range(7):
        for name, values in {
            "AP": samples.precision[0, row],
            "AP50": samples.precision[0, row, 0],
            "AP75": samples.precision[0, row, 5],
            "APm": samples.precision[2, row],
            "AR100": samples.recall[0, row],
            "ARs": samples.recall[1, row],
        }.items():
            means = drawn.means(name)
            assert means is not None
            assert means[row] == pytest.approx(mean(values), abs=1e-12)
    assert drawn.means("AR1") is drawn.of("AR10", 0) is None
    of_class = drawn.of("AP50", 1)
    assert of_class is not None
    assert np.array_equal(of_class, samples.precision[0, :, 0, 1])
    assert told[-1] == 1.0
