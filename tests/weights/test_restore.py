from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.interfaces import BoxHead, MaskHead
from maskrcnn.weights.restore import drop_head, initialize_model, restore_model, restore_optimizer


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


def headed(classes: int, width: int = 3) -> nn.Module:
    """A net of the model's kinds of heads, which say what their output layers are."""
    predictor = nn.ModuleDict({"logits": nn.Linear(width, classes), "deltas": nn.Linear(width, 4 * classes)})
    box, mask = BoxHead(), MaskHead()
    box.predictor = predictor
    mask.logits, mask.deconv = nn.Conv2d(width, classes, 1), nn.Linear(width, width)
    parts = {"box_head": box, "mask_head": mask}
    return nn.ModuleDict({"body": nn.Linear(4, width), "roi": nn.ModuleDict(parts)})


HEAD = [
    f"roi.{layer}.{kind}"
    for layer in ("box_head.predictor.logits", "box_head.predictor.deltas", "mask_head.logits")
    for kind in ("weight", "bias")
]


def test_output_layers_of_other_classes_are_refused() -> None:
    target = headed(5)
    before = {n: p.clone() for n, p in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"c\.pt: its output layers are for another.*--drop-head"):
        initialize_model(target, headed(2).state_dict(), "c.pt")
    assert all(before[n].equal(p) for n, p in target.state_dict().items())


@pytest.mark.parametrize("classes", [2, 5])
def test_dropped_output_layers_start_afresh(classes: int) -> None:
    source, target = headed(2), headed(classes)
    before = {n: p.clone() for n, p in target.state_dict().items()}
    state, dropped = drop_head(source.state_dict(), target)
    assert sorted(dropped) == sorted(HEAD)
    assert sorted(initialize_model(target, state, "c.pt")) == sorted(HEAD)
    for name, value in target.state_dict().items():
        assert value.equal(before[name] if name in HEAD else source.state_dict()[name]), name


def test_starting_from_another_width_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"body\.weight is \[3, 4\], here \[6, 4\]"):
        initialize_model(headed(2, width=6), headed(2).state_dict(), "c.pt")


def stepped(kind: type[torch.optim.Optimizer], **settings: Any) -> tuple[torch.optim.Optimizer, torch.Tensor]:
    """An optimizer of one parameter, after a step."""
    weight = torch.ones(3, requires_grad=True)
    optimizer = kind([weight], lr=0.1, **settings)
    (weight * torch.arange(3.0)).sum().backward()
    optimizer.step()
    return optimizer, weight


def test_momenta_are_the_checkpoints_and_settings_the_recipes() -> None:
    saved, _ = stepped(torch.optim.SGD, momentum=0.9, weight_decay=1e-4)
    weight = torch.ones(3, requires_grad=True)
    fresh = torch.optim.SGD([weight], lr=0.3, momentum=0.5, weight_decay=0.25)
    restore_optimizer(fresh, saved.state_dict(), "last.pt")
    group = fresh.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.5, 0.25)
    assert fresh.state[weight]["momentum_buffer"].equal(torch.arange(3.0) + 1e-4)


def test_a_setting_that_another_torch_added_is_no_other_optimizer() -> None:
    saved = stepped(torch.optim.AdamW)[0].state_dict()
    saved["param_groups"][0]["a_new_setting"] = True
    restore_optimizer(torch.optim.AdamW([torch.ones(3, requires_grad=True)]), saved, "last.pt")
    del saved["param_groups"][0]["a_new_setting"], saved["param_groups"][0]["maximize"]
    restore_optimizer(torch.optim.AdamW([torch.ones(3, requires_grad=True)]), saved, "last.pt")


@pytest.mark.parametrize("parameters", [1, 2])
def test_another_optimizers_state_is_a_sentence(parameters: int) -> None:
    kind = torch.optim.AdamW if parameters == 1 else torch.optim.SGD
    other = kind([torch.ones(3, requires_grad=True) for _ in range(parameters)], lr=0.1)
    with pytest.raises(CheckpointError, match="last.pt: its optimizer's state does not fit"):
        restore_optimizer(other, stepped(torch.optim.SGD)[0].state_dict(), "last.pt")
