"""Training on a GPU, where there is one: the CPU's numbers, no wait for the device, the same bits again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.outcomes import Wishes
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.structures import Batch
from maskrcnn.structures.padded import pad_targets
from maskrcnn.structures.seeds import seed_everything
from tests.engine.test_whole_step import batches
from tests.modeling import tiny
from tests.modeling.test_static_form import SIZES, build, truth

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def step_of(precision: str = "float32", steps: int = 0) -> Step:
    torch.manual_seed(0)
    model = build("fpn").float().cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, fused=True)
    ranks = Ranks(0, 1, 0, torch.device("cuda"))
    step = Step(
        choose_strategy(ranks, model),
        optimizer,
        lambda number: 0.01 / (1 + number),
        seed=0,
        precision=precision,  # type: ignore[arg-type]
    )
    for number, batch in zip(range(steps), batches(), strict=False):
        step.take(number, iter([batch]), Wishes)
    return step


def state_of(step: Step) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in step.strategy.model.state_dict().items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_no_step_waits_for_the_device(precision: str) -> None:
    step = step_of(precision, steps=2)
    given: Iterator[Batch] = iter([b.pin_memory() for b in itertools.islice(batches(), 3)])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3):
            step.queue(number, given, Wishes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(step.read()) == 3


def test_losses_and_gradients_are_the_cpus() -> None:
    results = []
    for device in ("cpu", "cuda"):
        model = build("fpn").double().to(device).train()
        model.static_shapes = True
        images = [image.to(device) for image in tiny.images(0, SIZES)]
        targets = pad_targets([t.to(device) for t in truth("fpn", (5, 9), 0)], static=True)
        losses = model.losses(images, targets, tiny.seeds().to(device))
        torch.stack([*losses.values()]).sum().backward()
        grads = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
        results.append(({name: float(value.detach()) for name, value in losses.items()}, grads))
    (expected, wanted), (ours, found) = results
    assert ours == pytest.approx(expected, rel=1e-9)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert (found[name] - grad).abs().max() <= 1e-8 * max(float(grad.abs().max()), 1e-3), name


def test_a_training_is_the_same_to_the_bit_again() -> None:
    seed_everything(0, deterministic=True)
    try:
        first, second = state_of(step_of(steps=5)), state_of(step_of(steps=5))
    finally:
        seed_everything(0)
    assert all(value.equal(second[name]) for name, value in first.items())


def test_memory_does_not_grow_from_step_to_step() -> None:
    step = step_of(steps=3)
    before = torch.cuda.memory_allocated()
    for number, batch in zip(range(6), batches(), strict=False):
        step.take(number, iter([batch]), Wishes)
    assert torch.cuda.memory_allocated() <= before + (1 << 20)
