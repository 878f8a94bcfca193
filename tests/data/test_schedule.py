"""Batches are a pure function of the step, and an epoch sees every image once."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.data.schedule import TrainSchedule, repeat_factors
from maskrcnn.structures.ground_truth import GroundTruth


def sizes(count: int, tall: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(count)
    return np.where(rng.random((count, 1)) < tall, [[60, 40]], [[40, 60]]).astype(np.int32)


@pytest.mark.parametrize("count", [1, 2, 7, 24, 25])
@pytest.mark.parametrize("per_rank", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_ranks_share_an_epoch_without_overlap(count: int, per_rank: int, world: int, shared: bool) -> None:
    schedule = TrainSchedule(sizes(count), images_per_rank=per_rank, world_size=world, seed=1, shared=shared)
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


@pytest.mark.parametrize("repeats", [None, np.linspace(1, 3, 25)])
def test_ranks_share_the_batch_that_one_would_have(repeats: np.ndarray | None) -> None:
    alone, shared, dealt = (
        TrainSchedule(
            sizes(25), images_per_rank=6 // world, world_size=world, seed=1, repeats=repeats, shared=shared
        )
        for world, shared in ((1, True), (3, True), (3, False))
    )
    others = 0
    for step in range(20):
        wanted = alone.batch(step, 0)
        assert [draw for rank in range(3) for draw in shared.batch(step, rank)] == wanted
        others += [draw for rank in range(3) for draw in dealt.batch(step, rank)] != wanted
    assert others > 10
    assert alone.epoch_draws(2) == shared.epoch_draws(2)


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


def truth(images: list[int], labels: list[int], crowds: list[bool], count: int = 10) -> GroundTruth:
    """Instances of 3 classes in ``count`` images, whose ids are 100, 101, ..."""
    instances = len(images)
    return GroundTruth(
        source="hand",
        image_ids=np.arange(100, 100 + count),
        sizes=np.full((count, 2), 8),
        category_ids=(1, 2, 3),
        category_names=("often", "rare", "never"),
        annotation_ids=np.arange(instances),
        images=np.array(images),
        labels=np.array(labels),
        boxes=np.zeros((instances, 4)),
        areas=np.zeros(instances),
        crowds=np.array(crowds),
    )


def test_repeat_factors_by_hand() -> None:
    """Class 0 in 8 of 10 images, twice in one of them; class 1 in one, and as a crowd in another."""
    found = truth([0, 1, 2, 3, 4, 5, 6, 7, 7, 3, 8], [0] * 9 + [1, 1], [False] * 10 + [True])
    ids = list(range(100, 110))
    repeats = repeat_factors(found, ids, 0.4)
    assert repeats.classes.tolist() == pytest.approx([1.0, 2.0, 1.0])  # sqrt(0.4 / 0.1)
    assert repeats.images.tolist() == pytest.approx([1, 1, 1, 2, 1, 1, 1, 1, 1, 1])
    repeats = repeat_factors(found, ids, 0.9)
    assert repeats.classes.tolist() == pytest.approx([(0.9 / 0.8) ** 0.5, 3.0, 1.0])
    assert repeats.images[[3, 0, 8]].tolist() == pytest.approx([3.0, (0.9 / 0.8) ** 0.5, 1.0])
    # Of four images only: class 1 is in a quarter of them; the order is that of the ids.
    some = repeat_factors(found, [109, 103, 100, 101], 1.0)
    assert some.classes.tolist() == pytest.approx([(4 / 3) ** 0.5, 2.0, 1.0])
    assert some.images.tolist() == pytest.approx([1.0, 2.0, (4 / 3) ** 0.5, (4 / 3) ** 0.5])


def repeating(seed: int = 3, per_rank: int = 2, world: int = 2) -> TrainSchedule:
    factors = np.array([1.0, 2.0, 1.5, 1.25] + [1.0] * 9)
    kwargs = {"images_per_rank": per_rank, "world_size": world, "seed": seed}
    return TrainSchedule(sizes(13), repeats=factors, **kwargs)  # type: ignore[arg-type]


def draws_of(schedule: TrainSchedule, steps: int) -> list[list[list[tuple[int, int, int]]]]:
    return [[schedule.batch(s, r) for r in range(schedule.world_size)] for s in range(steps)]


def test_images_are_repeated_as_their_factors_say_on_the_mean() -> None:
    schedule = repeating(per_rank=1, world=1)
    counts: dict[int, np.ndarray] = {}
    for draw in (d for s in range(16_000) for d in schedule.batch(s, 0)):
        counts.setdefault(draw.epoch, np.zeros(13, dtype=int))[draw.image] += 1
    whole = np.array([counts[e] for e in range(1000)])  # the last epoch may be cut
    assert (whole[:, 0] == 1).all() and (whole[:, 1] == 2).all() and (whole[:, 4:] == 1).all()
    assert set(whole[:, 2]) == {1, 2} and set(whole[:, 3]) == {1, 2}
    assert whole[:, 2].mean() == pytest.approx(1.5, abs=0.06)  # 4 standard errors
    assert whole[:, 3].mean() == pytest.approx(1.25, abs=0.06)
    assert len({int(n) for n in whole.sum(axis=1)}) == 3, "epochs differ in length"


def test_repeated_epochs_are_a_function_of_seed_and_position() -> None:
    ahead = draws_of(repeating(), 60)
    for step in (59, 0, 31, 7, 8):  # any order, a fresh schedule each
        assert [repeating().batch(step, r) for r in range(2)] == ahead[step]
    assert draws_of(repeating(seed=4), 60) != ahead
    places = [(d.epoch, d.position) for step in ahead for batch in step for d in batch]
    assert len(set(places)) == len(places), "each draw of an image is augmented anew"
    epochs = [e for e, _ in places]
    assert epochs == sorted(epochs) and set(epochs) == set(range(max(epochs) + 1))


def test_factors_of_one_are_no_repeats() -> None:
    plain = TrainSchedule(sizes(7), images_per_rank=2, world_size=2, seed=1)
    ones = TrainSchedule(sizes(7), images_per_rank=2, world_size=2, seed=1, repeats=np.ones(7))
    assert draws_of(ones, 20) == draws_of(plain, 20)


def test_few_images_fill_a_round_with_repeats_too() -> None:
    schedule = TrainSchedule(sizes(2), images_per_rank=3, world_size=2, seed=1, repeats=np.array([1.0, 2.5]))
    found = [d for step in draws_of(schedule, 30) for batch in step for d in batch]
    assert len(found) == 30 * 6 and {d[2] for d in found} == {0, 1}
