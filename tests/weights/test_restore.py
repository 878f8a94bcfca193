from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.interfaces import BoxHead, MaskHead
from maskrcnn.weights.restore import (
    drop_head,
    initialize_model,
    namesakes,
    restore_model,
    restore_optimizer,
    take_by_class,
)


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


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_momenta_lie_in_memory_as_their_weights_do(kind: str) -> None:
    """Fused optimizers go through both side by side, and a file of dealt out weights has them contiguous."""

    def make(layout: torch.memory_format) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=layout))
        if kind == "sgd":
            return weight, torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
        return weight, torch.optim.AdamW([weight], lr=0.1, fused=True)

    def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer, seed: int) -> None:
        gradient = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
        weight.grad = torch.empty_like(weight).copy_(gradient)
        optimizer.step()

    one, other = make(torch.contiguous_format), make(torch.channels_last)
    step(*one, 1)
    restore_optimizer(other[1], deepcopy(one[1].state_dict()), "last.pt")
    with torch.no_grad():
        other[0].copy_(one[0])
    step(*one, 2)
    step(*other, 2)
    torch.testing.assert_close(other[0], one[0], rtol=1e-6, atol=1e-6)


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


def fitted(model: nn.Module, classes: int) -> nn.Module:
    """The same net for so many classes, with every row told apart."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + 1000 * classes + len(name))
    return model


class Net(nn.Module):
    """Heads of all kinds: logits with background, boxes a class and agnostic, masks, keypoints, MLP masks."""

    def __init__(self, classes: int, keypoints: int = 5) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.box, self.agnostic, self.mask, self.mlp = BoxHead(), BoxHead(), MaskHead(), MaskHead()
        self.box.predictor = nn.ModuleDict(
            {"logits": nn.Linear(3, classes + 1), "deltas": nn.Linear(3, 4 * classes)}
        )
        self.agnostic.predictor = nn.ModuleDict(
            {"logits": nn.Linear(3, classes + 1), "deltas": nn.Linear(3, 4)}
        )
        self.mask.logits, self.mlp.logits = nn.Conv2d(3, classes, 1), nn.Linear(3, classes * 2**2)
        self.points = Points(keypoints)


class Points(nn.Module):
    def __init__(self, keypoints: int) -> None:
        super().__init__()
        self.out = nn.ConvTranspose2d(3, keypoints, 2)

    def class_layers(self) -> tuple[str, ...]:
        return ("out",)


OURS, THEIRS = ("cell", "Person", "traffic light"), ("person", "dog", "traffic_light", "cat")


def test_rows_go_by_the_names_of_the_classes() -> None:
    model, source = fitted(Net(3), 1), fitted(Net(4), 2).state_dict()
    own = {n: v.clone() for n, v in model.state_dict().items()}
    taken = take_by_class(model, Net(4), source, OURS, THEIRS)
    assert taken.classes == [("cell", None), ("Person", "person"), ("traffic light", "traffic_light")]
    assert initialize_model(model, taken.state, "c.pt") == []
    now = model.state_dict()
    for kind in ("weight", "bias"):
        for head in ("box", "agnostic"):
            logits = f"{head}.predictor.logits.{kind}"
            assert now[logits][0].equal(own[logits][0])  # cell: as it was
            assert now[logits][[1, 2, 3]].equal(source[logits][[0, 2, 4]])  # the last: background
        boxes = f"box.predictor.deltas.{kind}"
        assert now[boxes][:4].equal(own[boxes][:4])
        assert now[boxes][4:].equal(torch.cat([source[boxes][:4], source[boxes][8:12]]))
        assert now[f"agnostic.predictor.deltas.{kind}"].equal(source[f"agnostic.predictor.deltas.{kind}"])
        assert now[f"mask.logits.{kind}"][[1, 2]].equal(source[f"mask.logits.{kind}"][[0, 2]])
        assert now[f"mask.logits.{kind}"][0].equal(own[f"mask.logits.{kind}"][0])
        assert now[f"mlp.logits.{kind}"][4:].equal(
            torch.cat([source[f"mlp.logits.{kind}"][i : i + 4] for i in (0, 8)])
        )
        assert now[f"points.out.{kind}"].equal(source[f"points.out.{kind}"])
    assert now["body.weight"].equal(source["body.weight"])
    layers = {n.rpartition(".")[0] for n in taken.by_class}
    assert layers == {
        *("box.predictor.logits", "box.predictor.deltas", "agnostic.predictor.logits"),
        *("mask.logits", "mlp.logits"),
    }
    assert {n.rpartition(".")[0] for n in taken.whole} == {"agnostic.predictor.deltas", "points.out"}
    assert taken.fresh == []


@pytest.mark.parametrize("classes", [3, 4])
def test_as_many_classes_of_other_names_or_in_another_order(classes: int) -> None:
    """4 classes: deltas that are agnostic have 4 rows, too, and are of no class all the same."""
    theirs = ("a", "b", "c", "d")[:classes]
    ours = tuple(reversed(theirs))
    model, source = fitted(Net(classes), 1), fitted(Net(classes), 2).state_dict()
    taken = take_by_class(model, Net(classes + 1), source, ours, theirs).state
    logits = "box.predictor.logits.weight"
    assert taken[logits][:classes].equal(source[logits][:classes].flip(0)) and taken[logits][-1].equal(
        source[logits][-1]
    )
    assert taken["agnostic.predictor.deltas.weight"].equal(source["agnostic.predictor.deltas.weight"])


def test_layers_that_the_file_lacks_or_has_otherwise_stay_fresh() -> None:
    model = fitted(Net(3), 1)
    source = fitted(Net(4, keypoints=7), 2).state_dict()
    del source["mask.logits.weight"], source["mask.logits.bias"]
    source["box.predictor.deltas.weight"] = torch.zeros(4, 3)  # agnostic there
    source["box.predictor.deltas.bias"] = torch.zeros(4)
    taken = take_by_class(model, Net(4), source, OURS, THEIRS)
    layers = {n.rpartition(".")[0] for n in taken.fresh}
    assert layers == {"mask.logits", "box.predictor.deltas", "points.out"}
    assert sorted(initialize_model(model, taken.state, "c.pt")) == sorted(taken.fresh)


def test_a_body_that_does_not_fit_is_refused_all_the_same() -> None:
    source = fitted(Net(4), 2).state_dict()
    source["body.weight"] = torch.zeros(6, 4)
    taken = take_by_class(fitted(Net(3), 1), Net(4), source, OURS, THEIRS)
    with pytest.raises(CheckpointError, match=r"body\.weight is \[6, 4\], here \[3, 4\]"):
        initialize_model(Net(3), taken.state, "c.pt")


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        (("person",), ("dog", "person"), ["person"]),
        (("Traffic-Light", "x"), ("traffic light",), ["traffic light", None]),
        (("a b", "A_B"), ("a_b", "a b"), ["a b", "a_b"]),
        (("+", "-"), ("-", "+"), ["+", "-"]),
        (("Zelle", "細胞"), ("細胞",), [None, "細胞"]),
    ],
)
def test_namesakes(ours: tuple[str, ...], theirs: tuple[str, ...], found: list[str | None]) -> None:
    assert namesakes(ours, theirs) == found
