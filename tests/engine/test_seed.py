from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from maskrcnn.structures.seeds import seed_everything, seed_step


def draw(seed: int) -> tuple[float, float, float]:
    seed_everything(seed)
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_one_seed_decides_all_generators() -> None:
    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))


def test_a_step_has_its_own_numbers_whatever_was_drawn_before() -> None:
    def draw_at(*place: int) -> Tensor:
        torch.rand(100)
        seed_step(*place)
        return torch.rand(4)

    first = draw_at(0, 5, 1)
    assert first.equal(draw_at(0, 5, 1))
    others = [(1, 5, 1), (0, 6, 1), (0, 5, 0), (0, 5, 1, 1)]
    assert not any(first.equal(draw_at(*place)) for place in others)


def test_deterministic_is_switched_on_and_off() -> None:
    seed_everything(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    seed_everything(0)
    assert not torch.are_deterministic_algorithms_enabled()
