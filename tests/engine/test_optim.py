from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from maskrcnn.engine.optim import AdamWConfig, SGDConfig, clip_gradients, parameter_groups


def model() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.Linear(4, 2))
    net[3].weight.requires_grad_(False)
    return net


def test_every_trainable_parameter_is_in_one_group_by_its_kind() -> None:
    net = model()
    net.add_module("again", net[0])  # shared: counted once
    groups = {
        str(g["name"]): g
        for g in parameter_groups(net, weight_decay=1.0, weight_decay_norm=2.0, weight_decay_bias=3.0)
    }
    ids = {name: [id(p) for p in g["params"]] for name, g in groups.items()}  # type: ignore[attr-defined]
    assert ids["weights"] == [id(net[0].weight)]
    assert ids["norms"] == [id(p) for i in (1, 2) for p in (net[i].weight, net[i].bias)]
    assert ids["biases"] == [id(net[0].bias), id(net[3].bias)]
    assert {name: g["weight_decay"] for name, g in groups.items()} == {
        "weights": 1.0,
        "norms": 2.0,
        "biases": 3.0,
    }


def test_sgd_decays_biases_as_weights_and_norms_not_at_all() -> None:
    groups = SGDConfig().build(model(), 0.5).param_groups
    assert {g["name"]: g["weight_decay"] for g in groups} == {"weights": 1e-4, "norms": 0.0, "biases": 1e-4}
    assert {g["lr"] for g in groups} == {0.5}


def test_sgd_takes_the_step_of_its_equation() -> None:
    weight = nn.Linear(1, 1, bias=False)
    nn.init.constant_(weight.weight, 2.0)
    optimizer = SGDConfig(momentum=0.5, weight_decay=0.1).build(weight, lr=0.1)
    velocity, value = 0.0, 2.0
    for _ in range(3):
        weight.weight.grad = torch.ones(1, 1)
        optimizer.step()
        velocity = 0.5 * velocity + (1.0 + 0.1 * value)
        value -= 0.1 * velocity
    assert weight.weight.item() == pytest.approx(value, rel=1e-6)


def test_adamw_spares_norms_and_biases() -> None:
    groups = AdamWConfig().build(model(), 0.1).param_groups
    assert {g["name"]: g["weight_decay"] for g in groups} == {"weights": 0.05, "norms": 0.0, "biases": 0.0}


def test_clipping_keeps_the_direction() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients([a, b, nn.Parameter(torch.zeros(1))], max_norm=1.0) == pytest.approx(5.0)
    assert a.grad.tolist() + b.grad.tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert clip_gradients([a, b], max_norm=10.0) == pytest.approx(1.0)
    assert a.grad[0] == pytest.approx(0.6)
    assert clip_gradients([], 1.0) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_gradient_is_reported_and_the_others_left_alone(bad: float) -> None:
    a = nn.Parameter(torch.zeros(2))
    a.grad = torch.tensor([bad, 3.0])
    assert not math.isfinite(clip_gradients([a], max_norm=1.0))
    assert a.grad[1] == 3.0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: SGDConfig(lr=-1.0), "lr"),
        (lambda: SGDConfig(momentum=1.0), "momentum"),
        (lambda: SGDConfig(momentum=0.0, nesterov=True), "nesterov"),
        (lambda: AdamWConfig(betas=(0.9, 1.0)), "betas"),
    ],
)
def test_values_out_of_range_are_named(make: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()  # type: ignore[operator]
