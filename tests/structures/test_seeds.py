"""Random keys: the published generator, the same for ever, and drawn without regard to anything else."""

from __future__ import annotations

import torch

from maskrcnn.structures.seeds import ANCHORS, ROIS, _mix, derive_seed, image_seeds, random_keys


def test_derived_seeds_are_fixed_for_ever() -> None:
    assert derive_seed("step", 0, 1, 2) == 338354189596728589


def test_the_mixer_is_splitmix64() -> None:
    """The first three numbers of its stream from seed 1234567, as published with it."""
    state = torch.tensor([1234567])
    gamma = 0x9E3779B97F4A7C15 - (1 << 64)
    found = []
    for _ in range(3):
        state = state + gamma
        found.append(int(_mix(state)) % (1 << 64))
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_are_fixed_for_ever() -> None:
    keys = random_keys(torch.tensor(7), ANCHORS, torch.tensor([0, 1, 1 << 40]))
    assert keys.tolist() == [-360461888462742786, -4338647063180611488, -4636560695648318102]


def test_a_key_is_of_its_own_index_alone() -> None:
    seed, index = torch.tensor(3), torch.arange(10_000)
    keys = random_keys(seed, ROIS, index)
    assert len(keys.unique()) == len(keys)
    pick = torch.randperm(10_000)[:100]
    assert random_keys(seed, ROIS, index[pick]).equal(keys[pick])
    assert not random_keys(seed, ANCHORS, index).equal(keys)
    assert not random_keys(seed + 1, ROIS, index).equal(keys)


def test_draws_are_even() -> None:
    """Each of 50 indices is among the 10 largest keys of a fifth of the seeds, whatever its neighbour is."""
    index = torch.arange(50)
    keys = torch.stack([random_keys(torch.tensor(seed), ROIS, index) for seed in range(4000)])
    drawn = torch.zeros(4000, 50).scatter_(1, keys.topk(10, dim=1).indices, 1)
    deviation = (0.2 * 0.8 / 4000) ** 0.5
    assert ((drawn.mean(0) - 0.2).abs() < 4.5 * deviation).all()
    together = (drawn[:, 1:] * drawn[:, :-1]).mean(0)  # 10 / 50 * 9 / 49
    assert ((together - 90 / 2450).abs() < 4.5 * (0.0367 * 0.9633 / 4000) ** 0.5).all()


def test_seeds_that_are_not_given_come_from_the_global_generator() -> None:
    torch.manual_seed(0)
    first = image_seeds(None, 3, torch.device("cpu"))
    torch.manual_seed(0)
    assert image_seeds(None, 3, torch.device("cpu")).equal(first)
    assert len(first.unique()) == 3
    given = torch.tensor([5, 6])
    assert image_seeds(given, 2, torch.device("cpu")).equal(given)
