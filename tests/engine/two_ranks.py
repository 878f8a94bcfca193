"""What two processes check together; started by test_distributed.py under torchrun."""

from __future__ import annotations

import faulthandler
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.engine import checkpoint as checkpoints
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks, connect, leave
from maskrcnn.engine.ema import WeightAverage
from maskrcnn.engine.faults import NonFiniteError
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.outcomes import Wishes
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import DataParallel, choose_strategy
from maskrcnn.errors import DataError, UserError
from maskrcnn.modeling.norms import SyncBatchNorm, make_norm
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train, training
from maskrcnn.run.evaluation import BrokenOff
from maskrcnn.run.setup import one_first
from maskrcnn.run.validation_losses import validation_losses
from maskrcnn.structures import Batch, ImageInfo
from tests.engine.line import ALONE, Line, make_step, trainer
from tests.test_resume import StopAfter, assert_same_state


def check_calls(ranks: Ranks) -> None:
    assert ranks.size == 2
    assert ranks.gather(f"from {ranks.rank}") == (["from 0", "from 1"] if ranks.is_main else [])
    assert ranks.share(ranks.rank + 5) == 5
    assert ranks.sum(torch.tensor([1.0, float(ranks.rank)])).tolist() == [2.0, 1.0]

    def fail() -> int:
        raise DataError("broken json")

    with pytest.raises(DataError, match="broken json"):
        one_first(ranks, fail)
    assert one_first(ranks, lambda: ranks.rank) == ranks.rank


def part(values: list[float], ranks: Ranks) -> Batch:
    mine = values[ranks.rank :: ranks.size]
    infos = [ImageInfo(int(100 * v) if v == v else -1, f"{v}.png", 4, 4) for v in mine]
    return Batch([torch.full((3, 2, 2), v) for v in mine], infos, [])


def check_halves_are_the_whole(ranks: Ranks) -> None:
    """Two ranks with half the images each take the step of one rank with all."""
    values = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.9]]
    shared, alone = Line(), Line()
    trainer(shared, ranks=ranks, total_steps=2).fit([part(v, ranks) for v in values])
    trainer(alone, total_steps=2).fit([part(v, ALONE) for v in values])
    assert abs(shared.w.item() - alone.w.item()) < 1e-6
    assert alone.w.item() > 0.01


def check_strategy(ranks: Ranks) -> None:
    """Every rank has the whole state, gradients of a pass before the last stay its own, wishes are shared."""
    model = Line()
    step = make_step(model, ranks, accumulate=2)
    strategy = step.strategy
    assert isinstance(strategy, DataParallel)
    with strategy.no_sync():
        strategy.module([torch.full((3, 2, 2), 1.0 + ranks.rank)], [], torch.Generator())["loss_a"].backward()
    assert model.w.grad is not None and model.w.grad.item() == -2.0 * (1 + ranks.rank)
    wish = Wishes(stop=ranks.rank == 1)
    batches = iter([part([0.1, 0.2], ranks), part([0.3, 0.5], ranks)])
    done = step.take(0, batches, lambda: wish)
    assert done.wishes == Wishes(stop=True)
    assert done.images == 4
    state = strategy.model_state()
    assert list(state) == ["w"]
    assert ranks.share(state["w"].item()) == state["w"].item() != 0.0
    strategy.load_model({"w": torch.tensor(4.0)}, "x.pt")
    assert strategy.module.module.w.item() == 4.0


def check_one_bad_rank_stops_both(ranks: Ranks) -> None:
    values = [[0.1, 0.2], [0.3, float("nan")], [0.5, 0.6], [0.7, 0.8]]
    told = r"step 2: loss_a is nan.*image 30 \(0\.3\.png\), image -1 \(nan\.png\)"
    for deferred in (False, True):
        model = Line()
        with pytest.raises(NonFiniteError, match=told):
            trainer(model, ranks=ranks, log_every=3, deferred=deferred).fit([part(v, ranks) for v in values])
        assert torch.isfinite(model.w)


def check_wishes_of_deferred_steps(ranks: Ranks) -> None:
    """What one rank asks for is heard by both a step later, each at the same step."""
    step = make_step(Line(), ranks, deferred=True)
    source = iter([part([0.1 * i, 0.2], ranks) for i in range(4)])
    wishes = [Wishes(), Wishes(stop=ranks.rank == 1), Wishes(save=ranks.rank == 0), Wishes()]
    heard = [step.queue(i, source, lambda wish=wish: wish) for i, wish in enumerate(wishes)]  # type: ignore[misc]
    assert heard == [Wishes(), Wishes(), Wishes(stop=True), Wishes(save=True)]
    results = step.read()
    assert [r.images for r in results] == [2] * 4
    assert ranks.share([r.losses for r in results]) == [r.losses for r in results]


class _Fails(torch.autograd.Function):
    """Itself; on its way back memory runs out where the model says so."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, model: Crowded) -> torch.Tensor:
        ctx.model = model
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.model.fail("backward")
        return slope, None


class Crowded(torch.nn.Module):
    """Two weights and a batch norm; its pass number ``number`` of more than one image finds no memory."""

    def __init__(self, place: str = "", number: int = 1) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
        for p in self.parameters():
            torch.nn.init.constant_(p, 0.3)
        self.register_buffer("seen", torch.zeros(()))
        self.place, self.number, self.passes, self.images = place, number, 0, 0

    def fail(self, place: str) -> None:
        if place == self.place and self.passes == self.number and self.images > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, images: list[torch.Tensor], targets: Any, seeds: Any) -> dict[str, torch.Tensor]:
        self.images = len(images)
        self.passes += torch.is_grad_enabled() and len(images) > 1
        self.fail("forward")
        means = torch.stack([image.float().mean(dim=(1, 2)) for image in images])
        hidden = _Fails.apply(self.first(means), self)  # type: ignore[no-untyped-call]
        return {"loss_a": self.last(hidden).square().mean(), "loss_b": hidden.square().mean()}


def check_memory_that_runs_out_on_one_rank(ranks: Ranks) -> None:
    """Both begin the step anew in pieces, wherever it was; the result is that of a run with enough memory."""

    def run(model: Crowded, deferred: bool, accumulate: int) -> tuple[list[list[float]], Step]:
        step = make_step(model, ranks, deferred=deferred, accumulate=accumulate)
        values = [[0.1 * i, 0.2, 0.3, 0.4 * ranks.rank] for i in range(1, 11)]
        source, losses = iter([part(v, ranks) for v in values]), []
        for number in range(5):
            step.queue(number, source, Wishes)
            if step.full:
                losses += step.read()
        losses += step.read()
        return [[*r.losses.values()] for r in losses], step

    for deferred in (False, True):
        for accumulate in (1, 2):
            straight = Crowded()
            expected, _ = run(straight, deferred, accumulate)
            for place in ("forward", "backward"):
                for number in (1, 2, 5):
                    model = Crowded(place if ranks.rank == 1 else "", number)
                    found, step = run(model, deferred, accumulate)
                    assert step.passes.pieces == 2
                    assert len(found) == len(expected)
                    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
                    for mine, other in zip(model.parameters(), straight.parameters(), strict=True):
                        torch.testing.assert_close(mine, other)
                        assert ranks.share(mine.tolist()) == mine.tolist()


def check_sync_bn_is_refused_on_the_cpu() -> None:
    norm = make_norm("sync_bn", 3)
    norm.eval()(torch.randn(2, 3, 4, 4))
    with pytest.raises(UserError, match="sync_bn cannot be trained on the CPU with more than one process"):
        norm.train()(torch.randn(2, 3, 4, 4))


def check_sync_bn_of_real_rows_is_over_both(ranks: Ranks) -> None:
    """In fixed shapes, of 3 real rows here and 5 there, then of none here: as of all in one process."""
    generator = torch.Generator().manual_seed(0)
    for counts in ((3, 5), (0, 4)):
        norm, plain = make_norm("sync_bn", 3).double(), torch.nn.BatchNorm2d(3).double()
        assert isinstance(norm, SyncBatchNorm)
        rows, grad = torch.randn(2, sum(counts), 3, 4, 4, generator=generator, dtype=torch.float64)
        mine = slice(0, counts[0]) if ranks.rank == 0 else slice(counts[0], None)
        x = torch.zeros(6, 3, 4, 4, dtype=torch.float64)
        norm.real = torch.arange(6) < counts[ranks.rank]
        x[norm.real] = rows[mine]
        got, wanted = norm(x.requires_grad_()), plain(rows.requires_grad_())
        torch.testing.assert_close(got[norm.real], wanted[mine], rtol=1e-12, atol=1e-12)
        got[norm.real].backward(grad[mine])
        wanted.backward(grad)
        assert x.grad is not None and rows.grad is not None
        torch.testing.assert_close(x.grad[norm.real], rows.grad[mine], rtol=1e-10, atol=1e-12)
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[key], value, rtol=1e-12, atol=1e-12)
        of_weight = ranks.sum(norm.weight.grad)  # each process has its own rows' part
        torch.testing.assert_close(of_weight, plain.weight.grad, rtol=1e-10, atol=1e-12)


def check_keys(ranks: Ranks, recipe_file: str, folder: Path) -> None:
    """Frozen parts leave no parameter unused; rates and images of rare classes are the same on all ranks."""
    keys = ["solver.freeze=[backbone, roi.box_head]", "solver.rates={neck: 0.5}", "data.repeat_threshold=1.0"]
    keys += ["model.roi.balance_classes=true", "train.allow_frozen_random=true", "solver.steps=3"]
    result = train(load_recipe(recipe_file, keys), folder, console=Console(quiet=True))
    assert result.step == 3
    state = checkpoints.load(folder / "checkpoints" / "last.pt")
    sums = {name: float(tensor.double().sum()) for name, tensor in state.model.items()}
    assert ranks.share(sums) == sums
    assert {"weights of neck", "weights"} <= {group["name"] for group in state.optimizer["param_groups"]}


def check_average(ranks: Ranks) -> None:
    """Statistics are of a rank's own images, and their average that is judged is rank 0's, which is saved."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = WeightAverage(choose_strategy(ranks, model), decay=0.5, warmup=1.0)
    model(torch.arange(8.0).view(4, 2) * (ranks.rank + 1))
    average.update(0)
    name = "1.running_mean"
    own = average.state()[name].clone()
    assert ranks.is_main == ranks.share(own).equal(own)
    with average.applied():
        used = model.state_dict()[name].clone()
    assert ranks.share(used).equal(used) and (not ranks.is_main or used.equal(own))


def check_validation_losses(ranks: Ranks, recipe_file: str) -> None:
    """Shared out they are those of one rank, to the bit; where one is told to stop, all do."""
    recipe = load_recipe(recipe_file, ["eval.losses=3"])
    assert recipe.data.val is not None
    val = recipe.data.build(recipe.data.val, False)
    torch.manual_seed(0)
    model = recipe.model.build(2)
    alone = validation_losses(model, val, recipe, ALONE, lambda: False)
    shared = validation_losses(model, val, recipe, ranks, lambda: False)
    assert shared == (alone if ranks.is_main else {}) and alone["val/loss"] > 0
    with pytest.raises(BrokenOff):
        validation_losses(model, val, recipe, ranks, lambda: ranks.rank == 1)


def threads_of_gloo() -> int | None:
    """How many threads of this process work for gloo; None where that cannot be seen."""
    if sys.platform != "linux":
        return None
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


def main(recipe_file: str, folder: str) -> None:
    ranks = connect("cpu")
    check_calls(ranks)
    check_halves_are_the_whole(ranks)
    check_strategy(ranks)
    check_one_bad_rank_stops_both(ranks)
    check_wishes_of_deferred_steps(ranks)
    check_memory_that_runs_out_on_one_rank(ranks)
    check_sync_bn_is_refused_on_the_cpu()
    check_sync_bn_of_real_rows_is_over_both(ranks)
    check_keys(ranks, recipe_file, Path(folder) / "keys")
    check_average(ranks)
    check_validation_losses(ranks, recipe_file)
    rank = int(os.environ["RANK"])
    wishes = ["solver.steps=4", "solver.ema={decay: 0.9}", "eval.losses=2"]
    recipe = load_recipe(recipe_file, wishes)
    straight = Path(folder) / "straight"
    train(recipe, straight, console=Console(quiet=True))
    recipe = load_recipe(recipe_file, [*wishes, "data.cache=ram"])  # which the ranks share
    for deferred in (False, True):
        parted = Path(folder) / f"parted_{deferred}"
        training.Step = partial(Step, deferred=deferred)  # type: ignore[misc]
        with pytest.raises(Interrupted) as stop:  # the wish to stop reaches rank 0 alone
            train(recipe, parted, console=StopAfter(1) if rank == 0 else Console(quiet=True))
        assert stop.value.exit_status == 130
        result = train(recipe, parted, resume=True, console=Console(quiet=True))
        assert result.step == 4
        last = [checkpoints.load(f / "checkpoints" / "last.pt") for f in (straight, parted)]
        assert_same_state(*last)
    if rank == 0:
        assert {"segm/AP", "ema/segm/AP", "val/loss", "ema/val/loss_mask"} <= result.metrics.keys()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(200, exit=True)  # a hang shows where
    torch.set_num_threads(1)
    main(*sys.argv[1:])
    assert threads_of_gloo() != 0
    leave()
    assert not threads_of_gloo()
