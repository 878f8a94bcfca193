"""Iterative stratification: shares of images and of each class, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.data.splitting import choose, deal


def many(groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Groups of 1 to 4 images; classes from frequent to rare."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, groups)
    rates = np.array([0.9, 0.4, 0.1, 0.03])
    counts = rng.binomial(sizes[:, None], rates)
    return counts.astype(np.int64), sizes.astype(np.int64)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_each_class_and_the_images_are_shared_out_alike(share: float) -> None:
    counts, sizes = many(400)
    in_val = choose(counts, sizes, share, 0)
    assert abs(sizes[in_val].sum() - share * sizes.sum()) <= 4
    assert (np.abs(counts[in_val].sum(0) - share * counts.sum(0)) <= 4).all()


def test_a_rare_class_is_on_both_sides_where_chance_would_lose_it() -> None:
    counts = np.zeros((100, 2), dtype=np.int64)
    counts[:, 0] = 1
    counts[[3, 57], 1] = 1
    sizes = np.ones(100, dtype=np.int64)
    missed = 0
    for seed in range(20):
        in_val = choose(counts, sizes, 0.5, seed)
        assert in_val[[3, 57]].sum() == 1 and in_val.sum() == 50
        missed += choose(counts, sizes, 0.5, seed, stratify=False)[[3, 57]].sum() != 1
    assert missed > 0


def test_the_seed_decides_and_nothing_else() -> None:
    counts, sizes = many(60)
    first = choose(counts, sizes, 0.3, 1)
    assert np.array_equal(first, choose(counts.copy(), sizes.copy(), 0.3, 1))
    assert not np.array_equal(first, choose(counts, sizes, 0.3, 2))


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_no_side_is_empty(share: float) -> None:
    for stratify in (True, False):
        in_val = choose(np.ones((2, 1), dtype=np.int64), np.array([5, 1]), share, 0, stratify=stratify)
        assert in_val.sum() == 1


def test_images_without_objects_are_shared_out_too() -> None:
    in_val = choose(np.zeros((50, 3), dtype=np.int64), np.ones(50, dtype=np.int64), 0.2, 0)
    assert in_val.sum() == 10


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_several_parts_share_classes_and_images_alike(folds: int) -> None:
    counts, sizes = many(400)
    part = deal(counts, sizes, [1 / folds] * folds, 0)
    for k in range(folds):
        assert abs(sizes[part == k].sum() - sizes.sum() / folds) <= 4
        assert (np.abs(counts[part == k].sum(0) - counts.sum(0) / folds) <= 4).all()
    assert (deal(counts, sizes, [1 / folds] * folds, 1) != part).any()
    assert (choose(counts, sizes, 0.3, 5) == (deal(counts, sizes, (0.7, 0.3), 5) == 1)).all()


def test_no_part_is_empty_however_uneven_the_groups_are() -> None:
    sizes = np.array([1000, 1, 1], dtype=np.int64)
    part = deal(np.zeros((3, 1), dtype=np.int64), sizes, [1 / 3] * 3, 0)
    assert sorted(part.tolist()) == [0, 1, 2]
    ones = np.ones(3, dtype=np.int64)  # all of which the first part wants
    part = deal(np.zeros((3, 1), dtype=np.int64), ones, [0.98, 0.01, 0.01], 0)
    assert sorted(part.tolist()) == [0, 1, 2]
