from __future__ import annotations

import pytest
import torch
from torch import nn

from maskrcnn.engine.restore import initialize_model, restore_model
from maskrcnn.errors import CheckpointError


def net(classes: int = 2, width: int = 3, *, extra: bool = False) -> nn.Module:
    parts = {"body": nn.Linear(4, width), "head": nn.Linear(width, classes)}
    return nn.ModuleDict(parts | ({"more": nn.Linear(1, 1)} if extra else {}))


def test_restoring_copies_every_tensor() -> None:
    source, target = net(), net()
    restore_model(target, source.state_dict(), "c.pt")
    assert all(a.equal(b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_another_number_of_classes_is_said_and_nothing_is_touched() -> None:
    target = net(classes=5)
    before = [p.clone() for p in target.parameters()]
    with pytest.raises(
        CheckpointError, match=r"c\.pt.*head\.weight is \[2, 3\], here \[5, 3\].*number of classes"
    ):
        restore_model(target, net().state_dict(), "c.pt")
    assert all(a.equal(b) for a, b in zip(before, target.parameters(), strict=True))


def test_another_architecture_names_the_first_few_keys() -> None:
    with pytest.raises(CheckpointError, match=r"more\.weight is unknown here.*another architecture"):
        restore_model(net(), net(extra=True).state_dict(), "c.pt")
    with pytest.raises(CheckpointError, match=r"more\.weight is missing in the file; more\.bias"):
        restore_model(net(extra=True), net().state_dict(), "c.pt")
    with pytest.raises(CheckpointError, match=r"; and 1 more|, and 1 more"):
        restore_model(net(), {}, "c.pt")


def test_starting_from_other_classes_keeps_their_layers_fresh() -> None:
    source, target = net(classes=2), net(classes=5)
    head = target["head"].weight.clone()  # type: ignore[index, union-attr, operator]
    assert initialize_model(target, source.state_dict(), "c.pt") == ["head.weight", "head.bias"]
    assert target.state_dict()["body.weight"].equal(source.state_dict()["body.weight"])
    assert target.state_dict()["head.weight"].equal(head)


def test_starting_from_another_width_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"head\.weight is \[2, 3\], here \[2, 6\]"):
        initialize_model(net(width=6), net().state_dict(), "c.pt")
    assert torch.is_grad_enabled()
