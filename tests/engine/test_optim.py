from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from maskrcnn.engine.optim import (
    AdamWConfig,
    SGDConfig,
    clip_gradients,
    covers,
    freeze,
    parameter_groups,
    rates_of,
    set_rates,
)
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.recipe import load_recipe
from maskrcnn.weights.restore import restore_optimizer


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


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("backbone", "backbone.layer1.0.conv1.weight", True),
        ("backbone", "backbone", True),
        ("backbone", "backbone2.weight", False),
        ("layer1", "backbone.layer1.weight", False),
        ("*layer1", "backbone.layer1.weight", True),
        ("roi.box_head.*", "roi.box_head.fc1.weight", True),
        ("roi.box_head.*", "roi.box_head", False),
        ("*.bias", "roi.box_head.fc1.bias", True),
        ("*.bias", "roi.box_head.fc1.weight", False),
        ("backbone.layer[12]", "backbone.layer2.0.weight", True),
        ("Backbone", "backbone.weight", False),
    ],
)
def test_a_pattern_names_a_part_and_all_in_it(pattern: str, name: str, found: bool) -> None:
    assert covers(pattern, name) == found


@pytest.mark.parametrize("config", [SGDConfig(), AdamWConfig()])
def test_groups_are_split_by_rate_and_keep_what_they_have(config: SGDConfig | AdamWConfig) -> None:
    """The longest pattern counts, of equally long ones the last; each parameter is in one group."""
    net = model()
    plain, optimizer = config.build(net, 0.5), config.build(net, 0.5)
    set_rates(optimizer, net, {"1.bias": 0.3, "?.bias": 0.5, "0.bias": 0.25, "0": 0.1})
    factor = {id(p): g.get("rate", 1.0) for g in optimizer.param_groups for p in g["params"]}
    expected = {"0.weight": 0.1, "0.bias": 0.25, "1.bias": 0.5, "1.weight": 1.0, "2.bias": 0.5, "3.bias": 0.5}
    names = {id(p): name for name, p in net.named_parameters()}
    assert {n: factor[i] for i, n in names.items() if n in expected} == expected
    assert len(factor) == sum(len(g["params"]) for g in optimizer.param_groups) == 7
    for group in optimizer.param_groups:
        kind, _, pattern = group["name"].partition(" of ")
        (before,) = [g for g in plain.param_groups if g["name"] == kind]
        assert pattern == group.get("pattern", "")
        own = ("params", "name", "rate", "pattern")
        assert {k: v for k, v in group.items() if k not in own} == {
            k: v for k, v in before.items() if k not in own
        }
    assert rates_of(optimizer) == {"0": 0.1, "?.bias": 0.5, "0.bias": 0.25}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # fused, too


def test_without_rates_nothing_is_touched() -> None:
    net = model()
    optimizer = SGDConfig().build(net, 0.5)
    before = [dict(g) for g in optimizer.param_groups]
    set_rates(optimizer, net, {})
    assert optimizer.param_groups == before and rates_of(optimizer) == {}


def test_groups_of_other_names_do_not_take_each_others_momenta() -> None:
    """Two layers of one shape: only the name tells that the rates were swapped."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    states = []
    for pattern in ("0", "1"):
        optimizer = SGDConfig().build(net, 0.5)
        set_rates(optimizer, net, {pattern: 0.1})
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        states.append((optimizer, optimizer.state_dict()))
    with pytest.raises(CheckpointError, match="it has weights of 0 where there are weights here"):
        restore_optimizer(states[1][0], states[0][1], "x.pt")
    restore_optimizer(states[0][0], states[0][1], "x.pt")


def test_a_module_is_frozen_by_its_name_or_its_parameters() -> None:
    built = load_recipe("zoo/demo").model.build(2)
    found = freeze(built, ["backbone.layer1", "backbone.bn1.*", "*.deltas"])
    assert found == [n for n, p in built.named_parameters() if not p.requires_grad]
    parts = {n.rpartition(".")[0] for n in found}
    assert {"backbone.bn1", "roi.box_head.predictor.deltas", "backbone.layer1.0.conv1"} <= parts
    assert not [n for n in parts if n.startswith("backbone.layer2") or n == "backbone.conv1"]
    built.eval()
    built.train()
    norms = {n: m.training for n, m in built.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n, training in norms.items() if not training} == {
        n for n in norms if n == "backbone.bn1" or n.startswith("backbone.layer1.")
    }
    assert built.roi.training and built.training
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(built, ["backbone", "neck", "rpn", "roi"])
