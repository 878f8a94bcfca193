"""The intervals: the fast bootstrap against the evaluator's own AP, and cases whose answer is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from maskrcnn.evaluation.eval_result import Matches
from maskrcnn.studies.ablation.bootstrap import draw, interval, over_seeds, resampled_precision


def random_matches(seed: int, images: int = 7, classes: int = 3, crowds: bool = True) -> Matches:
    """Matches as an evaluation of random detections could give them; class 9 has no ground truth."""
    rng = np.random.default_rng(seed)
    gt_image, gt_class, gt_crowd = [], [], []
    rows: list[tuple[int, int, int, float]] = []
    for image in range(10, 10 + images):
        for category in [*range(classes), 9]:
            if category != 9:
                for _ in range(int(rng.integers(0, 4))):
                    gt_image.append(image)
                    gt_class.append(category)
                    gt_crowd.append(crowds and bool(rng.random() < 0.2))
            # Scores on a coarse grid: ties must be ranked as the evaluator ranks them.
            scores = np.sort(np.round(rng.random(int(rng.integers(0, 9))), 1))[::-1]
            rows += [(image, category, rank, float(s)) for rank, s in enumerate(scores)]
    count = len(rows)
    found = np.where(rng.random((10, count)) < 0.5, 5, -1)
    return Matches(
        iou_thresholds=np.arange(0.5, 1.0, 0.05),
        result_index=np.arange(count),
        image_id=np.array([r[0] for r in rows]),
        category_id=np.array([r[1] for r in rows]),
        rank=np.array([r[2] for r in rows]),
        score=np.array([r[3] for r in rows]),
        annotation_id=found,
        matched=found >= 0,
        ignored=(found >= 0) & (rng.random((10, count)) < 0.3),
        gt_annotation_id=np.arange(len(gt_image)),
        gt_image_id=np.array(gt_image),
        gt_category_id=np.array(gt_class),
        gt_ignored=np.array(gt_crowd),
    )


@pytest.mark.parametrize("cap", [100, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_resample_equals_the_evaluators_own_ap(seed: int, cap: int) -> None:
    matches = random_matches(seed)
    draws = draw(range(10, 17), 2, resamples=25)
    fast = resampled_precision(matches, draws.image_ids, draws.weights, cap).mean(axis=1)
    slow = [
        matches.average_precision(dict(zip(range(10, 17), row.astype(int).tolist(), strict=True)), cap)
        for row in draws.weights
    ]
    np.testing.assert_allclose(fast, np.array(slow, dtype=float), rtol=0, atol=1e-14)
    whole = resampled_precision(matches, draws.image_ids, np.ones((1, 7)), cap).mean()
    assert whole == pytest.approx(matches.average_precision(None, cap), abs=1e-14)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matches, draws = random_matches(3), draw(range(10, 17), 1, resamples=11)
    whole = resampled_precision(matches, draws.image_ids, draws.weights)
    monkeypatch.setattr("maskrcnn.studies.ablation.bootstrap._CHUNK", 40)
    assert np.array_equal(resampled_precision(matches, draws.image_ids, draws.weights), whole)


def test_a_resample_without_ground_truth_is_nan_and_left_out() -> None:
    matches = random_matches(0)
    weights = np.ones((2, 7))
    weights[1] = 0
    found = resampled_precision(matches, np.arange(10, 17), weights)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
    assert interval(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0)


def test_draws_are_samples_with_replacement_and_repeat() -> None:
    a, b = draw([3, 1, 2], 4, 500), draw([1, 2, 3], 4, 500)
    assert a.image_ids.tolist() == [1, 2, 3]
    assert np.array_equal(a.weights, b.weights) and np.array_equal(a.student, b.student)
    assert (a.weights.sum(axis=1) == 3).all() and a.student.shape == (500,)
    counts = Counter(a.weights[:, 0].astype(int).tolist())
    # Binomial(3, 1/3): 8/27, 12/27, 6/27, 1/27.
    assert counts[0] / 500 == pytest.approx(8 / 27, abs=0.07)
    assert counts[3] / 500 == pytest.approx(1 / 27, abs=0.03)
    # Student's t with three degrees of freedom: a twentieth beyond 3.182 on both sides together.
    assert np.quantile(a.student, [0.025, 0.5, 0.975]) == pytest.approx([-3.182, 0, 3.182], abs=0.15)
    assert not draw([1, 2, 3], 1, 500).student.any()


def test_seeds_alone_give_the_t_interval() -> None:
    """Differences that do not depend on the images: mean and 4.303 s / sqrt(3) (two degrees of freedom)."""
    observed = np.array([0.30, 0.34, 0.35])
    student = draw(range(5), 3, 4000).student
    low, high = interval(over_seeds(np.repeat(observed[:, None], 4000, axis=1), observed, student))
    half = 4.303 * observed.std(ddof=1) / np.sqrt(3)
    assert (low, high) == (pytest.approx(0.33 - half, rel=0.02), pytest.approx(0.33 + half, rel=0.02))


@pytest.mark.parametrize("image_spread", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_95_percent_interval_holds_the_truth_at_least_95_times_in_100(
    seeds: int, image_spread: float
) -> None:
    rng = np.random.default_rng(0)
    student, trials, held = draw(range(10), seeds).student, 1500, 0
    for _ in range(trials):
        observed = rng.normal(size=seeds) + image_spread * rng.normal()
        low, high = interval(
            over_seeds(observed[:, None] + image_spread * rng.normal(size=(1, 1000)), observed, student)
        )
        held += low <= 0 <= high
    # Five standard errors below; drawing seeds with replacement holds it 60 to 94 times.  Exact where images
    # make no spread, else somewhat wide (Behrens and Fisher's problem).
    assert held / trials >= 0.922
    if image_spread == 0:
        assert held / trials <= 0.978


def test_a_seed_keeps_its_partner() -> None:
    """Seeds that shift both variants alike leave no doubt about the difference."""
    noise = np.array([0.0, 0.1, -0.2])
    observed = (noise + 0.5) - (noise + 0.3)
    found = over_seeds(np.repeat(observed[:, None], 50, axis=1), observed, draw([1], 3, 50).student)
    np.testing.assert_allclose(found, 0.2, atol=1e-12)


def test_one_seed_takes_part_as_it_is() -> None:
    values = np.array([[0.1, 0.2, 0.4]])
    assert over_seeds(values, np.array([0.2]), np.zeros(3)).tolist() == [0.1, 0.2, 0.4]


def test_the_interval_of_a_known_spread() -> None:
    low, high = interval(np.linspace(0, 1, 1001))
    assert (low, high) == (pytest.approx(0.025), pytest.approx(0.975))
