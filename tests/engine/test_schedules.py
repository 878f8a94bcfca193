from __future__ import annotations

import pytest

from maskrcnn.engine.schedules import CosineConfig, MultiStepConfig


def test_multistep_warms_up_linearly_and_drops_at_the_milestones() -> None:
    schedule = MultiStepConfig(milestones=(8, 12), gamma=0.1, warmup_steps=4, warmup_factor=0.2)
    expected = [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]
    assert [schedule.factor(step, 20) for step in range(13)] == pytest.approx(expected)


def test_milestones_past_the_end_are_allowed_so_that_steps_can_be_cut_short() -> None:
    assert MultiStepConfig(milestones=(60_000,), warmup_steps=0).factor(2, 3) == 1.0


def test_cosine_goes_from_one_to_its_final_factor() -> None:
    schedule = CosineConfig(warmup_steps=0, final_factor=0.1)
    assert schedule.factor(0, 100) == pytest.approx(1.0)
    assert schedule.factor(50, 100) == pytest.approx(0.55)
    assert schedule.factor(100, 100) == pytest.approx(0.1)
    assert schedule.factor(150, 100) == pytest.approx(0.1)


def test_cosine_is_multiplied_with_the_warm_up() -> None:
    schedule = CosineConfig(warmup_steps=10, warmup_factor=0.0)
    assert schedule.factor(0, 100) == 0.0
    assert schedule.factor(5, 100) == pytest.approx(0.5 * CosineConfig(warmup_steps=0).factor(5, 100))


def test_cosine_warms_up_for_a_share_of_a_short_training() -> None:
    schedule = CosineConfig(warmup_steps=50, warmup_share=0.1, warmup_factor=0.0)
    assert (schedule.warms_up_for(100), schedule.warms_up_for(10_000)) == (10, 50)
    plain = CosineConfig(warmup_steps=0)
    for steps, half in ((100, 5), (10_000, 25)):
        assert schedule.factor(half, steps) == pytest.approx(0.5 * plain.factor(half, steps))
        assert schedule.factor(2 * half, steps) == pytest.approx(plain.factor(2 * half, steps))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: MultiStepConfig(milestones=(5, 3)), "rising"),
        (lambda: MultiStepConfig(gamma=0.0), "gamma"),
        (lambda: MultiStepConfig(warmup_steps=-1), "warmup_steps"),
        (lambda: CosineConfig(warmup_factor=2.0), "warmup_factor"),
        (lambda: CosineConfig(warmup_share=1.1), "warmup_share"),
        (lambda: CosineConfig(final_factor=-0.1), "final_factor"),
    ],
)
def test_values_out_of_range_are_named(make: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()  # type: ignore[operator]
