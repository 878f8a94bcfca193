from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.data.workers import LostWorkerError, StalledError
from maskrcnn.engine import faults
from maskrcnn.engine.checkpoint import Checkpoint, CheckpointFolder, WriteError, load
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.events import Events
from maskrcnn.engine.faults import NonFiniteError
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.trainer import Trainer
from maskrcnn.errors import UserError
from maskrcnn.structures import Batch, ImageInfo
from maskrcnn.weights.restore import restore_optimizer

CPU = torch.device("cpu")


class Line(nn.Module):
    """loss_a = mean (w - image)^2 over images, loss_b = 0.1 * mean image; plus noise from the generator."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.noise = noise
        self.dtypes: list[torch.dtype] = []

    def forward(self, images: list[Tensor], targets: Any, generator: torch.Generator) -> dict[str, Tensor]:
        assert self.training
        values = torch.stack([image.float().mean() for image in images])
        values = values + self.noise * torch.rand(len(values), generator=generator)
        self.dtypes.append((self.w.view(1, 1) @ values.view(1, -1)).dtype)
        return {"loss_a": ((self.w - values) ** 2).mean(), "loss_b": 0.1 * values.mean()}


def batch(step: int, size: int = 2) -> Batch:
    values = [float(10 * step + i) / 100 for i in range(size)]
    infos = [ImageInfo(100 * step + i, f"{step}_{i}.png", 4, 4) for i in range(size)]
    return Batch([torch.full((3, 2, 2), v) for v in values], infos, [])


def batches(start: int = 0, stop: int = 100) -> Iterator[Batch]:
    return (batch(step) for step in range(start, stop))


def trainer(model: nn.Module, folder: Path | None = None, **changes: Any) -> Trainer:
    options: dict[str, Any] = {
        "ranks": Ranks(0, 1, 0, CPU),
        "console": Console(quiet=True),
        "seed": 0,
        "total_steps": 4,
        "precision": Precision("float32", CPU),
        "checkpoints": None if folder is None else CheckpointFolder(folder, keep=9),
        "template": Checkpoint(model={}, config="x: 1\n"),
    } | changes
    rate: Callable[[int], float] = options.pop("rate", lambda step: 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=77.0, momentum=0.9)
    return Trainer(model, optimizer, rate, **options)


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
    trainer(model, total_steps=2).fit(given)
    assert model.seen == [[0, 0], [1, 0]]


def test_each_step_takes_its_own_learning_rate() -> None:
    model = Line()
    rates = {0: 0.1, 1: 0.2, 2: 0.0}
    trainer(model, rate=rates.__getitem__, total_steps=3).fit(batches())
    w, velocity = 0.0, 0.0
    for step, rate in rates.items():
        mean = (10 * step + 0.5) / 100
        velocity = 0.9 * velocity + 2 * (w - mean)
        w -= rate * velocity
    assert model.w.item() == pytest.approx(w, rel=1e-5)


def test_accumulation_is_the_step_of_the_whole_batch() -> None:
    whole, parts = Line(), Line()
    trainer(whole, total_steps=1).fit([batch(1, size=4)])
    images = batch(1, size=4)
    halves = [Batch(images.images[i : i + 2], images.infos[i : i + 2], []) for i in (0, 2)]
    trainer(parts, total_steps=1, accumulate=2).fit(halves)
    assert parts.w.item() == pytest.approx(whole.w.item(), rel=1e-6)
    assert parts.w.item() != 0.0


def test_logs_are_means_since_the_last_log(tmp_path: Path) -> None:
    events = Events(tmp_path, Console(quiet=True), tensorboard=False)
    trainer(Line(), log_every=2, total_steps=3, rate=lambda step: 0.0, events=events).fit(batches())
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [2, 3]
    assert records[0]["loss_b"] == pytest.approx(0.1 * (0.005 + 0.105) / 2)
    assert records[0]["loss"] == pytest.approx(records[0]["loss_a"] + records[0]["loss_b"])
    assert records[1]["loss_b"] == pytest.approx(0.1 * 0.205)
    assert records[1]["images_per_second"] > 0
    assert 0 <= records[1]["data_wait"] <= 1
    assert records[1]["memory_bytes"] > 1e6
    assert records[1]["grad_norm"] == pytest.approx(2 * 0.205)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_stops_before_the_step_and_names_the_images(tmp_path: Path, value: float) -> None:
    model = Line()
    bad = Batch([torch.full((3, 2, 2), value)] * 2, batch(2).infos, [])
    loop = trainer(model, tmp_path, checkpoint_every=1)
    with pytest.raises(NonFiniteError) as caught:
        loop.fit([batch(0), batch(1), bad])
    text = str(caught.value)
    assert text.startswith("step 3: loss_a is ")
    assert "loss_b is" in text
    assert "image 200 (2_0.png), image 201 (2_1.png)" in text
    assert "the checkpoint of step 2 is kept" in text
    assert load(tmp_path / "last.pt").model["w"].equal(model.w)
    assert loop.state.step == 2


def test_a_non_finite_gradient_stops_before_the_step() -> None:
    class Root(Line):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            return {"loss_a": (self.w * 0.0 + 0.0).abs().sqrt()}  # slope 0 * inf at 0

    model = Root()
    with pytest.raises(NonFiniteError, match=r"step 1: the gradient's norm is nan, on image 0 \(0_0\.png\)"):
        trainer(model).fit(batches())
    assert model.w.item() == 0.0


def test_gradients_are_clipped() -> None:
    model = Line()
    trainer(model, total_steps=1, clip_grad_norm=0.001, rate=lambda step: 1.0).fit([batch(5)])
    assert model.w.item() == pytest.approx(0.001, rel=1e-3)


def test_bfloat16_runs_the_forward_pass_under_autocast() -> None:
    model = Line()
    trainer(model, total_steps=2, precision=Precision("bfloat16", CPU)).fit(batches())
    assert model.dtypes == [torch.bfloat16] * 2
    assert model.w.dtype == torch.float32


def test_float16_scales_the_loss_and_keeps_the_scale_in_the_checkpoint(tmp_path: Path) -> None:
    model = Line()
    trainer(model, tmp_path, total_steps=1, precision=Precision("float16", CPU)).fit([batch(5)])
    assert model.w.item() == pytest.approx(0.1 * 2 * 0.505, rel=1e-3)
    assert load(tmp_path / "last.pt").scaler["scale"] == 65536.0


def test_checkpoints_and_evaluations_come_when_due(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []
    scores = {2: 0.3, 4: 0.5, 5: 0.4}

    def evaluate(step: int, stopping: Callable[[], bool]) -> Mapping[str, float]:
        seen.append((step, model.training))
        model.eval()
        return {"bbox/AP": scores[step]}

    model = Line()
    loop = trainer(model, tmp_path, total_steps=5, eval_every=2, checkpoint_every=3, evaluate=evaluate)
    loop.fit(batches())
    assert [step for step, _ in seen] == [2, 4, 5]
    assert sorted(p.name for p in tmp_path.glob("step_*")) == [f"step_0000000{i}.pt" for i in (2, 3, 4, 5)]
    best, last = load(tmp_path / "best.pt"), load(tmp_path / "last.pt")
    assert (best.step, best.best) == (4, {"bbox/AP": 0.5, "step": 4})
    assert (last.step, last.evaluated, last.best, last.config) == (
        5,
        5,
        {"bbox/AP": 0.5, "step": 4},
        "x: 1\n",
    )


def test_an_undefined_best_metric_costs_no_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = trainer(
        Line(),
        total_steps=1,
        evaluate=lambda step, stop: {"bbox/AP": 0.1},
        best_metric="bbox/APl",
        checkpoints=CheckpointFolder(tmp_path),
    )
    loop.fit(batches())
    assert "bbox/APl is not defined in this evaluation" in caplog.text
    assert load(tmp_path / "last.pt").evaluated == 1
    assert not (tmp_path / "best.pt").exists()


def test_out_of_memory_is_a_sentence() -> None:
    class Big(Line):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            return {"loss_a": self.w + torch.empty(2**60).sum()}

    with pytest.raises(UserError, match=r"step 1: out of memory on image 0 \(0_0\.png\).*solver\.accumulate"):
        trainer(Big()).fit(batches())


def test_other_errors_pass() -> None:
    class Broken(Line):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        trainer(Broken()).fit(batches())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    def source() -> Iterator[Batch]:
        yield batch(0)
        signal.raise_signal(number)
        yield batch(1)
        raise AssertionError("a third step was begun")

    model = Line()
    with pytest.raises(Interrupted, match=r"after step 2 of 4.*--resume here") as caught:
        trainer(model, tmp_path, resume_hint="--resume here").fit(source())
    assert caught.value.exit_status == 128 + number
    saved = load(tmp_path / "last.pt")
    assert saved.step == 2
    assert saved.model["w"].equal(model.w)


def test_an_evaluation_that_was_broken_off_is_made_up_for(tmp_path: Path) -> None:
    def interrupted(step: int, stopping: Callable[[], bool]) -> Mapping[str, float]:
        assert not stopping()
        signal.raise_signal(signal.SIGINT)
        assert stopping()
        return {}

    model = Line()
    with pytest.raises(Interrupted):
        trainer(model, tmp_path, eval_every=2, evaluate=interrupted).fit(batches())
    saved = load(tmp_path / "last.pt")
    assert (saved.step, saved.evaluated) == (2, 0)

    steps: list[int] = []

    def evaluate(step: int, stopping: Callable[[], bool]) -> Mapping[str, float]:
        steps.append(step)
        return {"bbox/AP": 0.1}

    loop = trainer(model, tmp_path, eval_every=2, evaluate=evaluate)
    restore_optimizer(loop.optimizer, saved.optimizer, "last.pt")
    loop.resume(saved)
    loop.fit(batches(2))
    assert steps == [2, 4]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_going_on_equals_never_having_stopped(tmp_path: Path, precision: Any) -> None:
    straight = Line(noise=0.5)
    trainer(straight, tmp_path, total_steps=6, precision=Precision(precision, CPU)).fit(batches())
    whole = load(tmp_path / "last.pt")

    first, second = Line(noise=0.5), Line(noise=0.5)
    trainer(first, tmp_path / "b", total_steps=3, precision=Precision(precision, CPU)).fit(batches())
    saved = load(tmp_path / "b" / "last.pt")
    second.load_state_dict(saved.model)
    loop = trainer(second, tmp_path / "b", total_steps=6, precision=Precision(precision, CPU))
    restore_optimizer(loop.optimizer, saved.optimizer, "last.pt")
    loop.resume(saved)
    loop.fit(batches(3))
    parted = load(tmp_path / "b" / "last.pt")
    assert straight.w.equal(second.w)
    momenta = [c.optimizer["state"][0]["momentum_buffer"] for c in (whole, parted)]
    assert momenta[0].equal(momenta[1])
    assert whole.scaler == parted.scaler


class Lines(Console):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Full(CheckpointFolder):
    """A disk that is full from one step to another, and tells that it has room or not."""

    def __init__(self, folder: Path, first: int, last: int) -> None:
        super().__init__(folder, keep=9)
        self.full = range(first, last + 1)
        self.tried: list[int] = []

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> Path:
        self.tried.append(checkpoint.step)
        if checkpoint.step in self.full:
            raise WriteError("x.pt: the checkpoint could not be written: the disk is full")
        return super().save(checkpoint, best=best)


def test_a_checkpoint_that_fails_is_tried_again_after_each_step_and_told_once(tmp_path: Path) -> None:
    console, disk = Lines(), Full(tmp_path, 4, 5)
    loop = trainer(Line(), checkpoints=disk, console=console, total_steps=8, checkpoint_every=2)
    loop.fit(batches())
    assert disk.tried == [2, 4, 5, 6, 8]
    assert [s for s, _ in disk.steps()] == [8, 6, 2]
    assert len(console.warnings) == 1
    assert console.warnings[0].startswith(
        "step 4: x.pt: the checkpoint could not be written: the disk is full"
    )
    assert (
        "the steps since the checkpoint of step 2 (2) are at stake; it is tried again after each step"
        in (console.warnings[0])
    )


def test_where_there_is_no_room_yet_it_is_not_even_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Full(tmp_path, 2, 2)
    monkeypatch.setattr(disk, "has_room", lambda: False)
    loop = trainer(Line(), checkpoints=disk, console=Lines(), total_steps=6, checkpoint_every=2)
    loop.fit(batches())
    assert disk.tried == [2, 4, 6]


def test_a_last_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    disk = Full(tmp_path, 3, 9)
    loop = trainer(Line(), checkpoints=disk, console=Lines(), total_steps=4, checkpoint_every=1)
    with pytest.raises(
        WriteError, match=r"stopped after step 4.*full; the steps since.* step 2 \(2\) are lost"
    ):
        loop.fit(batches())
    assert load(tmp_path / "last.pt").step == 2


def test_a_stop_whose_checkpoint_cannot_be_written_does_not_say_that_it_was(tmp_path: Path) -> None:
    def source() -> Iterator[Batch]:
        signal.raise_signal(signal.SIGTERM)
        yield batch(0)

    loop = trainer(Line(), checkpoints=Full(tmp_path, 0, 9), console=Lines())
    with pytest.raises(WriteError, match="nothing of this run was saved before, so all 1 steps are lost"):
        loop.fit(source())


def test_an_evaluation_whose_checkpoint_failed_is_not_the_best(tmp_path: Path) -> None:
    scores = {2: 0.5, 4: 0.3}
    disk = Full(tmp_path, 2, 2)
    loop = trainer(
        Line(),
        checkpoints=disk,
        console=Lines(),
        eval_every=2,
        evaluate=lambda step, stopping: {"bbox/AP": scores[step]},
    )
    loop.fit(batches())
    assert load(tmp_path / "best.pt").best == {"bbox/AP": 0.3, "step": 4}


def test_what_the_guard_says_stops_the_run_and_nothing_is_written_any_more(tmp_path: Path) -> None:
    asked: list[int] = []

    def guard() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise UserError("the folder is gone")

    loop = trainer(Line(), tmp_path, total_steps=9, checkpoint_every=1, log_every=99, guard=guard)
    with pytest.raises(UserError, match="the folder is gone"):
        loop.fit(batches())
    assert load(tmp_path / "last.pt").step == 2
    assert loop.state.step == 4


@pytest.mark.parametrize("keep", [1, 2])
def test_ruined_weights_are_told_and_cost_no_sound_checkpoint(tmp_path: Path, keep: int) -> None:
    def rate(step: int) -> float:
        return 1e17 if step == 2 else 0.0 if step > 2 else 0.1

    console, folder = Lines(), CheckpointFolder(tmp_path, keep=keep)
    loop = trainer(
        Line(), checkpoints=folder, console=console, total_steps=7, checkpoint_every=1, rate=rate, log_every=1
    )
    loop.fit(batches())
    ruin = [w for w in console.warnings if "ruined" in w]
    assert len(ruin) == 1
    assert ruin[0].startswith(
        "step 3: the weights have grown from a root mean square of 0 at the beginning to "
    )
    assert f"{tmp_path}/step_00000002.pt is from before and is kept" in ruin[0]
    assert f"a lower --set solver.optimizer.lr and --set weights={tmp_path}/step_00000002.pt" in ruin[0]
    assert any("the loss has grown to" in w for w in console.warnings)
    assert [s for s, _ in folder.steps()] == [*range(7, 7 - keep, -1), 2]
    assert load(tmp_path / "last.pt").step == 7

    console = Lines()
    again = trainer(Line(), checkpoints=CheckpointFolder(tmp_path, keep=1), console=console, total_steps=8)
    saved = load(tmp_path / "last.pt")
    again.model.load_state_dict(saved.model)
    again.resume(saved)
    again.fit(batches(7))
    assert "step 7: the weights have a root mean square of" in console.warnings[0]
    assert (tmp_path / "step_00000002.pt").exists()


def test_a_loss_that_is_not_finite_after_ruin_says_which_checkpoint_is_sound(tmp_path: Path) -> None:
    bad = Batch([torch.full((3, 2, 2), math.nan)] * 2, batch(2).infos, [])
    loop = trainer(
        Line(), tmp_path, console=Lines(), checkpoint_every=1, rate=lambda step: 1e17 if step == 1 else 0.1
    )
    with pytest.raises(
        NonFiniteError, match=r"step 2 is kept, but its weights are ruined.*sound: that of step 1\)"
    ):
        loop.fit([batch(0), batch(1), bad])


class Counting(nn.Module):
    """A batch norm, whose running mean every forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, images: list[Tensor], targets: Any, generator: torch.Generator) -> dict[str, Tensor]:
        values = torch.stack([image.float().mean() for image in images]).view(-1, 1)
        return {"loss_a": self.norm(values).square().mean()}


@pytest.mark.parametrize("problem", [StalledError(), LostWorkerError("process 7 was ended")])
def test_a_step_that_is_given_up_half_way_leaves_no_trace(tmp_path: Path, problem: Exception) -> None:
    def source() -> Iterator[Batch]:
        yield from (batch(i) for i in range(3))  # the second step's first pass, and no more
        signal.raise_signal(signal.SIGTERM)
        raise problem

    model, straight = Counting(), Counting()
    expected = "to go on: here" if isinstance(problem, LostWorkerError) else "stopped by SIGTERM after step 1"
    with pytest.raises((Interrupted, LostWorkerError), match=expected):
        trainer(model, tmp_path / "a", accumulate=2, resume_hint="here").fit(source())
    trainer(straight, tmp_path / "b", accumulate=2, total_steps=1).fit(batches())
    a, b = load(tmp_path / "a" / "last.pt"), load(tmp_path / "b" / "last.pt")
    assert (a.step, a.model["norm.num_batches_tracked"].item()) == (1, 2)
    assert all(a.model[name].equal(b.model[name]) for name in b.model)
    assert a.optimizer["param_groups"] == b.optimizer["param_groups"]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234", True),
        ("NCCL error in: ProcessGroupNCCL.cpp:3356, remote process exited", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_rank_that_is_gone_is_told_from_a_bug(text: str, lost: bool) -> None:
    assert faults.is_lost_rank(RuntimeError(text)) == lost


def test_when_another_rank_is_gone_the_last_whole_step_is_saved(tmp_path: Path) -> None:
    class Gone(Line):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            if images[0].mean() > 0.15:  # the third step
                raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
            return super().forward(images, targets, generator)

    model = Gone()
    loop = trainer(model, tmp_path, resume_hint="--resume here", ranks=Ranks(0, 2, 0, CPU))
    message = (
        r"another process of this run is gone.*after step 2, the checkpoint of step 2 is kept.*--resume here"
    )
    with pytest.raises(faults.LostRankError, match=message):
        loop.fit(batches())
    assert load(tmp_path / "last.pt").model["w"].equal(model.w)
