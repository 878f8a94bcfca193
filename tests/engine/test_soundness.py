from __future__ import annotations

import math

import pytest
import torch

from maskrcnn.engine.faults import LossWatch, Soundness, root_mean_square


def test_the_root_mean_square_is_over_all_elements_and_does_not_overflow() -> None:
    assert root_mean_square([torch.tensor([3.0, 4.0]), torch.tensor([[0.0], [0.0]])]) == pytest.approx(2.5)
    assert root_mean_square([torch.full((10,), 1e30)]) == pytest.approx(1e30)
    assert root_mean_square([]) == 0.0


def test_growth_beyond_use_is_told_and_growth_of_a_sound_run_is_not() -> None:
    weight = torch.nn.Parameter(torch.full((100,), 0.02))
    watch = Soundness([weight])
    for factor in (1.0, 3.0, 50.0):
        weight.data.fill_(0.02 * factor)
        assert watch.weights() is None
    weight.data.fill_(1e17)
    assert watch.weights() == (
        "the weights have grown from a root mean square of 0.02 at the beginning to 1.0e+17"
    )
    assert watch.ruined_from_the_start() is None


def test_a_beginning_with_ruined_weights_is_known_without_a_comparison() -> None:
    watch = Soundness([torch.full((4,), 1e17)])
    assert watch.ruined_from_the_start() == "the weights have a root mean square of 1.0e+17"
    assert watch.weights() is not None


def test_a_loss_is_compared_with_the_lowest_so_far() -> None:
    watch = LossWatch()
    assert [watch.growth(value) for value in (13.0, 2.0, 0.5, 99.0)] == [None] * 4
    assert watch.growth(1e5) == "the loss has grown to 1e+05 from 0.5"
    assert LossWatch().growth(math.inf) is None
