from __future__ import annotations

import random

import numpy as np
import torch

from maskrcnn.engine.seed import derive_seed, seed_everything, step_generator


def draw(seed: int) -> tuple[float, float, float]:
    seed_everything(seed)
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_one_seed_decides_all_generators() -> None:
    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))


def test_derived_seeds_are_fixed_for_ever() -> None:
    assert derive_seed("step", 0, 1, 2) == 338354189596728589


def test_a_step_has_its_own_numbers_whatever_was_drawn_before() -> None:
    first = torch.rand(4, generator=step_generator(0, 5, 1))
    dropout = torch.rand(4)
    torch.rand(100)
    again = torch.rand(4, generator=step_generator(0, 5, 1))
    assert first.equal(again)
    assert dropout.equal(torch.rand(4))  # the global generator is seeded as well
    others = [
        step_generator(1, 5, 1),
        step_generator(0, 6, 1),
        step_generator(0, 5, 0),
        step_generator(0, 5, 1, 1),
    ]
    assert not any(first.equal(torch.rand(4, generator=g)) for g in others)


def test_deterministic_is_switched_on_and_off() -> None:
    seed_everything(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    seed_everything(0)
    assert not torch.are_deterministic_algorithms_enabled()
