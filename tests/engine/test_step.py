from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.data.workers import LostWorkerError, StalledError
from maskrcnn.engine import faults
from maskrcnn.engine.checkpoint import Checkpoint, load_parts
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.outcomes import (
    AbandonedError,
    NoMemoryError,
    NotFiniteError,
    NotMadeError,
    StepResult,
    Wishes,
)
from maskrcnn.engine.step import Step
from maskrcnn.structures import Batch
from tests.engine.line import CPU, Line, batch, batches, make_step


def none() -> Wishes:
    return Wishes()


def take(step: Step, count: int, source: Iterator[Batch] | None = None) -> list[StepResult]:
    source = source or batches()
    return [step.take(i, source, none) for i in range(count)]


def test_proposals_reach_the_model() -> None:
    class Proposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))
            self.seen: list[list[int]] = []

        def forward(
            self, images: Any, targets: Any, generator: Any, proposals: list[Tensor]
        ) -> dict[str, Tensor]:
            self.seen.append([len(p) for p in proposals])
            return {"loss": self.w**2}

    model = Proposed()
    given = [replace(batch(i), proposals=[torch.zeros(i, 4), torch.zeros(0, 4)]) for i in range(2)]
    take(make_step(model), 2, iter(given))
    assert model.seen == [[0, 0], [1, 0]]


def test_each_step_takes_its_own_learning_rate() -> None:
    model = Line()
    rates = {0: 0.1, 1: 0.2, 2: 0.0}
    take(make_step(model, rate=rates.__getitem__), 3)
    w, velocity = 0.0, 0.0
    for step, rate in rates.items():
        mean = (10 * step + 0.5) / 100
        velocity = 0.9 * velocity + 2 * (w - mean)
        w -= rate * velocity
    assert model.w.item() == pytest.approx(w, rel=1e-5)


def test_accumulation_is_the_step_of_the_whole_batch() -> None:
    whole, parts = Line(), Line()
    images = batch(1, size=4)
    (one,) = take(make_step(whole), 1, iter([images]))
    halves = [Batch(images.images[i : i + 2], images.infos[i : i + 2], []) for i in (0, 2)]
    (two,) = take(make_step(parts, accumulate=2), 1, iter(halves))
    assert parts.w.item() == pytest.approx(whole.w.item(), rel=1e-6)
    assert parts.w.item() != 0.0
    assert two.losses == pytest.approx(one.losses)
    assert (one.images, two.images) == (4, 4)


def test_gradients_are_clipped_and_their_norm_told() -> None:
    model = Line()
    (done,) = take(make_step(model, clip_grad_norm=0.001, rate=lambda step: 1.0), 1, iter([batch(5)]))
    assert model.w.item() == pytest.approx(0.001, rel=1e-3)
    assert done.grad_norm == pytest.approx(2 * 0.505)


def test_bfloat16_runs_the_forward_pass_under_autocast() -> None:
    model = Line()
    take(make_step(model, precision="bfloat16"), 2)
    assert model.dtypes == [torch.bfloat16] * 2
    assert model.w.dtype == torch.float32


@pytest.mark.parametrize("wishes", [Wishes(), Wishes(stop=True), Wishes(save=True)])
def test_a_wish_comes_back_with_the_step_that_it_came_in(wishes: Wishes) -> None:
    step = make_step(Line())
    assert step.take(0, batches(), lambda: wishes).wishes == wishes
    assert step.take(1, batches(1), none).wishes == Wishes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_makes_no_step(value: float) -> None:
    model = Line()
    step = make_step(model)
    take(step, 1)
    before = model.w.item()
    bad = Batch([torch.full((3, 2, 2), value)] * 2, batch(7).infos, [])
    with pytest.raises(NotFiniteError) as caught:
        step.take(1, iter([bad]), none)
    assert [text.partition(" is ")[0] for text in caught.value.what] == ["loss_a", "loss_b"]
    assert [info.image_id for info in caught.value.infos] == [700, 701]
    assert model.w.item() == before


class Big(Line):
    """Asks for more memory than there is from its second pass on."""

    def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
        losses = super().forward(images, targets, generator)
        if len(self.dtypes) > 1:
            torch.empty(2**60)
        return losses


def test_a_step_that_has_no_memory_says_on_which_images() -> None:
    model = Big()
    with pytest.raises(NoMemoryError) as caught:
        take(make_step(model, accumulate=2), 1)
    assert [info.image_id for info in caught.value.infos] == [0, 1, 100, 101]
    assert model.w.item() == 0.0


def test_ranks_of_a_run_from_before_each_go_on_with_a_batch_of_their_own() -> None:
    step, other = make_step(Line()), make_step(Line())
    assert step.passes.shared
    states = {name: part.save() for name, part in step.parts().items()}
    load_parts(other.parts(), Checkpoint(model={}).with_states(states), Path("new.pt"))
    assert other.passes.shared
    del states["shares"]
    load_parts(other.parts(), Checkpoint(model={}).with_states(states), Path("old.pt"))
    assert not other.passes.shared
    assert other.parts()["shares"].save() == {"of": "rank"}  # and so does what goes on from it


def test_other_errors_pass() -> None:
    class Broken(Line):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            raise RuntimeError("a bug")

    for ranks in (Ranks(0, 1, 0, CPU), Ranks(0, 2, 0, CPU)):
        with pytest.raises(RuntimeError, match="a bug"):
            take(make_step(Broken(), ranks), 1)


class Counting(nn.Module):
    """A batch norm, whose running mean every forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, images: list[Tensor], targets: Any, generator: torch.Generator) -> dict[str, Tensor]:
        values = torch.stack([image.float().mean() for image in images]).view(-1, 1)
        return {"loss_a": self.norm(values).square().mean()}


def nothing_left_of_a_step(problem: Callable[[], Batch], kind: type[NotMadeError]) -> NotMadeError:
    """Give a second step up after its first pass; state and rates are those of one step."""

    def source() -> Iterator[Batch]:
        yield from (batch(i) for i in range(3))
        yield problem()

    def rate(step: int) -> float:
        return 0.1 / (step + 1)

    model, straight = Counting(), Counting()
    step, other = (make_step(m, accumulate=2, rate=rate) for m in (model, straight))
    given = source()
    step.take(0, given, none)
    with pytest.raises(kind) as caught:
        step.take(1, given, none)
    take(other, 1)
    states, wanted = ({n: part.save() for n, part in s.parts().items()} for s in (step, other))
    assert states["model"]["norm.num_batches_tracked"].item() == 2
    assert all(states["model"][name].equal(wanted["model"][name]) for name in wanted["model"])
    assert states["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
    return caught.value


def fail(error: Exception) -> Callable[[], Batch]:
    def problem() -> Batch:
        raise error

    return problem


def not_finite() -> Batch:
    return Batch([torch.full((3, 2, 2), float("nan"))] * 2, batch(3).infos, [])


def test_a_step_that_is_given_up_half_way_leaves_no_trace() -> None:
    lost = LostWorkerError("process 7 was ended")
    error = nothing_left_of_a_step(fail(lost), AbandonedError)
    assert isinstance(error, AbandonedError) and error.why is lost
    error = nothing_left_of_a_step(fail(StalledError()), AbandonedError)
    assert isinstance(error, AbandonedError) and error.why is None
    nothing_left_of_a_step(fail(MemoryError()), NoMemoryError)
    nothing_left_of_a_step(not_finite, NotFiniteError)


def test_a_rank_that_is_gone_is_no_news_to_one_that_was_told_to_stop() -> None:
    class Gone(Line):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")

    step = make_step(Gone(), Ranks(0, 2, 0, CPU))
    for wishes, kind in ((Wishes(), faults.LostRankError), (Wishes(stop=True), type(None))):
        with pytest.raises(AbandonedError) as caught:
            step.take(0, batches(), lambda wishes=wishes: wishes)  # type: ignore[misc]
        assert type(caught.value.why) is kind
