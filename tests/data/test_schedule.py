"""Batches are a pure function of the step, and an epoch sees every image once."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.data.schedule import TrainSchedule


def sizes(count: int, tall: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(count)
    return np.where(rng.random((count, 1)) < tall, [[60, 40]], [[40, 60]]).astype(np.int32)


@pytest.mark.parametrize("count", [1, 2, 7, 24, 25])
@pytest.mark.parametrize("per_rank", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_an_epoch_without_overlap(count: int, per_rank: int, world: int) -> None:
    schedule = TrainSchedule(sizes(count), images_per_rank=per_rank, world_size=world, seed=1)
    assert schedule.epoch_length >= 1
    for epoch in range(3):
        draws = [
            draw
            for step in range(epoch * schedule.epoch_length, (epoch + 1) * schedule.epoch_length)
            for rank in range(world)
            for draw in schedule.batch(step, rank)
        ]
        assert all(d.epoch == epoch for d in draws)
        assert len(draws) == schedule.epoch_length * world * per_rank
        positions = [d.position for d in draws]
        assert len(set(positions)) == len(positions)
        if count >= per_rank * world:
            images = [d.image for d in draws]
            assert len(set(images)) == len(images)
            # Fewer than one round of batches is left out.
            assert count - len(images) < per_rank * world
        else:
            assert {d.image for d in draws} <= set(range(count))


def test_a_later_start_makes_the_same_batches() -> None:
    def make() -> TrainSchedule:
        return TrainSchedule(sizes(23), images_per_rank=2, world_size=2, seed=9)

    one = make()
    ahead = [[one.batch(s, r) for r in range(2)] for s in range(40)]
    for step in (39, 0, 17, 5, 6):  # any order, a fresh schedule each
        assert [make().batch(step, r) for r in range(2)] == ahead[step]


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        schedule = TrainSchedule(sizes(32), images_per_rank=1, world_size=1, seed=seed)
        return [schedule.batch(32 * epoch + s, 0)[0].image for s in range(32)]

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(o) for o in orders}) == 9
    assert all(sorted(o) == list(range(32)) for o in orders)


def test_wide_and_tall_images_stay_apart() -> None:
    shape = sizes(101)
    tall = shape[:, 0] > shape[:, 1]
    grouped = TrainSchedule(shape, images_per_rank=4, world_size=1, seed=0)
    mixed = 0
    for step in range(grouped.epoch_length):
        mixed += len({bool(tall[d.image]) for d in grouped.batch(step, 0)}) - 1
    assert mixed <= 1
    free = TrainSchedule(shape, images_per_rank=4, world_size=1, seed=0, group=False)
    assert free.epoch_length == grouped.epoch_length == 25
    assert sum(len({bool(tall[d.image]) for d in free.batch(s, 0)}) - 1 for s in range(25)) > 10


def test_leftovers_change_from_epoch_to_epoch() -> None:
    schedule = TrainSchedule(sizes(10), images_per_rank=4, world_size=1, seed=0)
    seen = {d.image for s in range(12 * schedule.epoch_length) for d in schedule.batch(s, 0)}
    assert seen == set(range(10))


def test_nothing_to_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TrainSchedule(np.zeros((0, 2), dtype=np.int32), images_per_rank=1, world_size=1, seed=0)
