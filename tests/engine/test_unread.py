"""Deferred steps: the same bits, nothing read before it is due, and nothing changed by a step that is bad."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from maskrcnn.data.workers import LostWorkerError
from maskrcnn.engine.outcomes import AbandonedError, NotFiniteError, Wishes
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.engine.unread import MOST_UNREAD
from maskrcnn.structures import Batch
from tests.engine.line import ALONE, Line, batch, batches, make_step

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=9.0, momentum=0.9, weight_decay=0.01, fused=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=9.0, momentum=0.9, nesterov=True, fused=True),
    "sgd_without_momentum": lambda p: torch.optim.SGD(p, lr=9.0, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=9.0, fused=True),
    "sgd_not_fused": lambda p: torch.optim.SGD(p, lr=9.0, momentum=0.9, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=9.0, momentum=0.5, centered=True),
}


class Norm(nn.Module):
    """A batch norm, and two weights besides; 0.3 of the loss is the images' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 5)
        torch.manual_seed(4)
        nn.init.normal_(self.linear.weight)

    def forward(self, images: list[Tensor], targets: Any, seeds: Any) -> dict[str, Tensor]:
        means = torch.stack([image.float().mean() for image in images])
        values = means[:, None] * torch.tensor([1.0, 2.0, -0.7], device=means.device)
        return {"loss_a": self.linear(self.norm(values)).square().mean(), "loss_b": 0.3 * means.mean()}


def make(name: str = "sgd", **options: Any) -> Step:
    torch.manual_seed(3)
    model = Norm()
    defaults: dict[str, Any] = {"rate": lambda step: 0.1 / (step + 1), "seed": 0, "precision": "float32"}
    strategy = choose_strategy(options.pop("ranks", ALONE), model)
    return Step(strategy, OPTIMIZERS[name](model.parameters()), **defaults | options)


def state(step: Step) -> dict[str, Any]:
    return {name: part.save() for name, part in step.parts().items()}


def assert_equal(a: Any, b: Any) -> None:
    """To the bit (but for the sign of zeros)."""
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a == b


def queue(step: Step, source: Iterator[Batch], count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert step.queue(number, source, Wishes) == Wishes()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(("precision", "accumulate"), [("float32", 1), ("float16", 1), ("float16", 2)])
def test_deferred_steps_are_those_made_at_once(
    name: str, precision: str, clip: float | None, accumulate: int
) -> None:
    options = {"precision": precision, "clip_grad_norm": clip, "accumulate": accumulate}
    once, later = make(name, **options), make(name, **options, deferred=True)
    source = batches()
    expected = [once.take(i, source, Wishes) for i in range(6)]
    queue(later, batches(), 6)
    found = later.read()
    assert [repr(replace(r, waiting=0)) for r in found] == [repr(replace(r, waiting=0)) for r in expected]
    assert found[-1].grad_norm > 0.05
    assert_equal(state(later), state(once))
    assert later.read() == []


def bad_loss() -> Batch:
    return Batch([torch.full((3, 2, 2), math.nan)] * 2, batch(7).infos, [])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("good", [0, 2])
def test_from_a_bad_step_on_nothing_is_changed_until_it_is_told(name: str, precision: str, good: int) -> None:
    step, straight = (make(name, precision=precision, deferred=True) for _ in range(2))
    source = iter([*(batch(i) for i in range(good)), bad_loss(), batch(8), batch(9)])
    queue(step, source, good + 3)
    with pytest.raises(NotFiniteError) as caught:
        step.read()
    assert [text.partition(" is ")[0] for text in caught.value.what] == ["loss_a", "loss_b"]
    assert [info.image_id for info in caught.value.infos] == [700, 701]
    assert caught.value.step == good
    queue(straight, batches(), good)
    straight.read()
    if good:
        assert_equal(state(step), state(straight))
    else:
        assert_equal(step.strategy.model_state(), straight.strategy.model_state())
        values = [v for of in step.optimizer.state.values() for v in of.values() if isinstance(v, Tensor)]
        assert all(not value.any() for value in values if value.dim()), "state that was made is zeros"
    # Once it was told, steps count again.
    queue(step, batches(good), 1, first=good)
    queue(straight, batches(good), 1, first=good)
    step.read()
    assert_equal(step.strategy.model_state(), straight.strategy.model_state())


def test_a_gradient_that_is_not_finite_is_a_bad_step_too() -> None:
    class Root(Line):
        def forward(self, images: list[Tensor], targets: Any, seeds: Any) -> dict[str, Tensor]:
            return {"loss_a": (self.w * 0.0 + 0.0).abs().sqrt()}  # slope 0 * inf at 0

    step = make_step(Root(), deferred=True)
    queue(step, batches(), 2)
    with pytest.raises(NotFiniteError) as caught:
        step.read()
    assert (caught.value.what, caught.value.step) == (["the gradient's norm is nan"], 0)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_first_step_that_the_scaler_leaves_out_leaves_no_rubbish(deferred: bool) -> None:
    """torch's fused SGD makes its momenta uninitialised in the first step, made or not."""

    class Steep(Norm):
        calls = 0

        def forward(self, images: list[Tensor], targets: Any, seeds: Any) -> dict[str, Tensor]:
            losses = super().forward(images, targets, seeds)
            self.calls += 1  # the gradient of the first pass overflows, its loss does not
            steep = (self.linear.bias.sum() * 1e-30).sinh() * 3e38 if self.calls == 1 else 0.0
            return losses | {"loss_a": losses["loss_a"] + steep}

    torch.full((4096,), math.nan).sum()  # what is freed here lies where the momenta are made
    model = Steep()
    options: dict[str, Any] = {"rate": lambda step: 0.1, "seed": 0, "precision": "float16"}
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    step = Step(choose_strategy(ALONE, model), optimizer, **options, deferred=deferred)
    start = {name: tensor.clone() for name, tensor in model.named_parameters()}
    step.take(0, iter([batch(0)]), Wishes)
    assert all(tensor.equal(start[name]) for name, tensor in model.named_parameters())
    momenta = [of["momentum_buffer"] for of in optimizer.state.values()]
    assert len(momenta) == len(start)
    assert all(not momentum.any() for momentum in momenta)


def test_a_step_that_is_given_up_is_none_of_those_that_are_read() -> None:
    def source() -> Iterator[Batch]:
        yield from (batch(i) for i in range(5))
        raise LostWorkerError("process 7 was ended")

    step, straight = (make(accumulate=2, deferred=True) for _ in range(2))
    given = source()
    queue(step, given, 2)
    with pytest.raises(AbandonedError):
        step.queue(2, given, Wishes)
    assert [r.images for r in step.read()] == [4, 4]
    queue(straight, batches(), 2)
    straight.read()
    assert_equal(state(step), state(straight))


def test_what_is_queued_is_read_before_it_is_too_much() -> None:
    step = make(deferred=True)
    queue(step, batches(), MOST_UNREAD - 1)
    assert not step.full
    queue(step, batches(), 1)
    assert step.full
    assert len(step.read()) == MOST_UNREAD
    assert not step.full
    once = make()
    once.queue(0, batches(), Wishes)
    assert once.full


@pytest.mark.parametrize("wishes", [Wishes(), Wishes(stop=True), Wishes(save=True)])
def test_a_process_that_is_alone_hears_itself_at_once(wishes: Wishes) -> None:
    step = make(deferred=True)
    assert step.queue(0, batches(), lambda: wishes) == wishes
    assert step.queue(1, batches(), Wishes) == Wishes()
    assert [r.wishes for r in step.read()] == [wishes, Wishes()]


@pytest.mark.parametrize("name", ["sgd", "adamw", "sgd_not_fused"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_deferred_step_reads_nothing_from_the_device(name: str, clip: float | None) -> None:
    """With tensors that have no values: whoever asks for one fails."""
    with FakeTensorMode():
        for deferred in (True, False):
            step = make(name, clip_grad_norm=clip, deferred=deferred)
            if deferred:
                queue(step, batches(), 3)
            else:
                with pytest.raises((DataDependentOutputException, RuntimeError)):
                    queue(step, batches(), 1)
