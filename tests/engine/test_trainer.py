from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.data.workers import LostWorkerError, StalledError
from maskrcnn.engine import faults
from maskrcnn.engine.checkpoint import Checkpoint, load
from maskrcnn.engine.checkpoint_folder import CheckpointFolder
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.events import Events
from maskrcnn.engine.faults import NonFiniteError
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import UserError
from maskrcnn.structures import Batch
from tests.engine.line import CPU, Line, batch, batches, trainer


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


@pytest.mark.parametrize(("log_every", "told_after"), [(1, 3), (2, 4), (50, 12)])
def test_a_deferred_step_that_is_not_finite_is_told_when_it_is_read(
    tmp_path: Path, log_every: int, told_after: int
) -> None:
    model, straight = Line(), Line()
    taken: list[int] = []

    def source() -> Iterator[Batch]:
        for i in range(12):
            taken.append(i)
            bad = Batch([torch.full((3, 2, 2), math.nan)] * 2, batch(2).infos, [])
            yield bad if i == 2 else batch(i)

    loop = trainer(model, tmp_path, total_steps=12, log_every=log_every, deferred=True)
    with pytest.raises(NonFiniteError) as caught:
        loop.fit(source())
    text = str(caught.value)
    assert text.startswith("step 3: loss_a is nan")
    assert "on image 200 (2_0.png), image 201 (2_1.png); stopped before the optimizer step" in text
    assert "no checkpoint was written yet" in text
    assert len(taken) == told_after
    assert loop.state.step == 2
    trainer(straight, total_steps=2).fit(batches())
    assert model.w.equal(straight.w)


def test_a_checkpoint_is_never_of_a_step_that_was_not_made(tmp_path: Path) -> None:
    bad = Batch([torch.full((3, 2, 2), math.nan)] * 2, batch(2).infos, [])
    loop = trainer(Line(), tmp_path, log_every=4, checkpoint_every=1, deferred=True)
    with pytest.raises(NonFiniteError, match=r"step 3: .*the checkpoint of step 2 is kept"):
        loop.fit([batch(0), batch(1), bad, batch(3)])
    assert load(tmp_path / "last.pt").step == 2


@pytest.mark.parametrize("error", [LostWorkerError("process 7 was ended"), MemoryError()])
def test_what_was_not_read_is_read_before_a_run_ends_for_another_reason(
    tmp_path: Path, error: Exception
) -> None:
    def source(*first: Batch) -> Iterator[Batch]:
        yield from first
        raise error

    bad = Batch([torch.full((3, 2, 2), math.nan)] * 2, batch(1).infos, [])
    with pytest.raises(NonFiniteError, match=r"step 2: loss_a is nan.*on image 100 \(1_0.png\)"):
        trainer(Line(), tmp_path / "a", log_every=4, deferred=True).fit(source(batch(0), bad, batch(2)))
    if isinstance(error, LostWorkerError):
        with pytest.raises(LostWorkerError, match="stopped after step 2, the checkpoint of step 2 is kept"):
            trainer(Line(), tmp_path / "b", log_every=4, deferred=True).fit(source(batch(0), batch(1)))
        assert load(tmp_path / "b" / "last.pt").step == 2


def test_deferred_logs_checkpoints_and_evaluations_are_those_of_steps_made_at_once(tmp_path: Path) -> None:
    found = []
    for deferred in (False, True):
        folder, model = tmp_path / str(deferred), Line(noise=0.5)
        folder.mkdir()
        events = Events(folder, Console(quiet=True), tensorboard=False)
        plan = {"total_steps": 30, "log_every": 25, "eval_every": 7, "checkpoint_every": 10}
        seen: list[tuple[int, float]] = []

        def evaluate(step: int, stopping: Any, model: Any = model, seen: Any = seen) -> dict[str, float]:
            seen.append((step, model.w.item()))
            return {"bbox/AP": 0.1}

        trainer(model, folder, events=events, evaluate=evaluate, deferred=deferred, **plan).fit(batches())
        records = [r for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]
        logged = [{k: r[k] for k in ("step", "loss", "loss_a", "lr", "grad_norm")} for r in records]
        saved = [(p.name, load(p).model["w"].item()) for p in sorted(folder.glob("step_*"))]
        found.append((seen, logged, saved))
    assert found[0] == found[1]
    assert [record["step"] for record in found[0][1]] == [25, 30]


def test_a_non_finite_gradient_stops_before_the_step() -> None:
    class Root(Line):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            return {"loss_a": (self.w * 0.0 + 0.0).abs().sqrt()}  # slope 0 * inf at 0

    model = Root()
    with pytest.raises(NonFiniteError, match=r"step 1: the gradient's norm is nan, on image 0 \(0_0\.png\)"):
        trainer(model).fit(batches())
    assert model.w.item() == 0.0


def test_float16_scales_the_loss_and_keeps_the_scale_in_the_checkpoint(tmp_path: Path) -> None:
    model = Line()
    trainer(model, tmp_path, total_steps=1, precision="float16").fit([batch(5)])
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
        CheckpointFolder(tmp_path),
        total_steps=1,
        evaluate=lambda step, stop: {"bbox/AP": 0.1},
        best_metric="bbox/APl",
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


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path: Path, number: int, deferred: bool
) -> None:
    def source() -> Iterator[Batch]:
        yield batch(0)
        signal.raise_signal(number)
        yield batch(1)
        raise AssertionError("a third step was begun")

    model = Line()
    with pytest.raises(Interrupted, match=r"after step 2 of 4.*--resume here") as caught:
        trainer(model, tmp_path, resume_hint="--resume here", deferred=deferred).fit(source())
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

    trainer(model, tmp_path, eval_every=2, evaluate=evaluate, resume=saved).fit(batches(2))
    assert steps == [2, 4]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_going_on_equals_never_having_stopped(tmp_path: Path, precision: Any) -> None:
    straight = Line(noise=0.5)
    trainer(straight, tmp_path, total_steps=6, precision=precision).fit(batches())
    whole = load(tmp_path / "last.pt")

    first, second = Line(noise=0.5), Line(noise=0.5)
    trainer(first, tmp_path / "b", total_steps=3, precision=precision).fit(batches())
    saved = load(tmp_path / "b" / "last.pt")
    trainer(second, tmp_path / "b", total_steps=6, precision=precision, resume=saved).fit(batches(3))
    parted = load(tmp_path / "b" / "last.pt")
    assert straight.w.equal(second.w)
    momenta = [c.optimizer["state"][0]["momentum_buffer"] for c in (whole, parted)]
    assert momenta[0].equal(momenta[1])
    assert whole.scaler == parted.scaler


@pytest.mark.parametrize("problem", [StalledError(), LostWorkerError("process 7 was ended")])
def test_a_step_that_is_given_up_comes_after_a_checkpoint(tmp_path: Path, problem: Exception) -> None:
    def source() -> Iterator[Batch]:
        yield from (batch(i) for i in range(3))  # the second step's first pass, and no more
        signal.raise_signal(signal.SIGTERM)
        raise problem

    model, straight = Line(), Line()
    expected = "to go on: here" if isinstance(problem, LostWorkerError) else "stopped by SIGTERM after step 1"
    with pytest.raises((Interrupted, LostWorkerError), match=expected):
        trainer(model, tmp_path / "a", accumulate=2, resume_hint="here").fit(source())
    trainer(straight, tmp_path / "b", accumulate=2, total_steps=1).fit(batches())
    a, b = load(tmp_path / "a" / "last.pt"), load(tmp_path / "b" / "last.pt")
    assert a.step == 1
    assert a.model["w"].equal(b.model["w"])
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


def test_a_run_stops_after_so_many_evaluations_without_a_better_one(tmp_path: Path) -> None:
    """By AP and by a loss, whose lowest is the best; and it goes on where more patience is asked for."""
    values = [0.1, 0.3, 0.2, 0.3, 0.25, 0.4, 0.1, 0.1, 0.1, 0.1]
    for name, sign in (("segm/AP", 1.0), ("val/loss", -1.0), ("ema/val/loss_mask", -1.0)):
        folder = tmp_path / name.replace("/", "_")
        folder.mkdir()

        def evaluate(step: int, _: Any, name: str = name, sign: float = sign) -> dict[str, float]:
            return {name: sign * values[step // 2 - 1]}

        def make(
            patience: int,
            resume: Checkpoint | None = None,
            name: str = name,
            folder: Path = folder,
            evaluate: Any = evaluate,
        ) -> Any:
            events = Events(
                folder, Console(quiet=True), start_step=resume.step if resume else 0, tensorboard=False
            )
            plan = {"total_steps": 20, "eval_every": 2, "patience": patience, "best_metric": name}
            return trainer(Line(), folder, evaluate=evaluate, events=events, resume=resume, **plan)

        loop = make(3)
        loop.fit(batches())
        assert loop.state.step == 10  # the best at 4; 6, 8 and 10 are not better
        assert loop.state.best == {name: sign * 0.3, "step": 4}
        assert f"none of 3 evaluations in a row was better than {name} {sign * 0.3:g} of step 4" in loop.ended
        assert load(folder / "best.pt").step == 4
        ends = [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "end"]
        assert [r["step"] for r in ends] == [10]
        # Resumed, it is finished; with more patience it goes on, and finds a better one at 12.
        again = make(3, load(folder / "last.pt"))
        again.fit(batches(10))
        assert again.state.step == 10
        assert [r["step"] for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "end"] == [10]
        longer = make(4, load(folder / "last.pt"))
        longer.fit(batches(10))
        assert (longer.state.step, longer.state.best["step"]) == (20, 12)
        straight = make(4)
        straight.fit(batches())
        assert (straight.state.step, straight.ended) == (20, "")
        assert straight.step.strategy.model_state()["w"].equal(longer.step.strategy.model_state()["w"])


def test_a_metric_that_is_never_defined_runs_out_of_patience_too(tmp_path: Path) -> None:
    loop = trainer(
        Line(),
        tmp_path,
        evaluate=lambda step, _: {},
        total_steps=20,
        eval_every=1,
        patience=2,
        best_metric="segm/APs",
    )
    loop.fit(batches())
    assert loop.state.step == 2 and "gave the metric that decides" in loop.ended


def test_a_run_stopped_before_its_last_evaluation_ends_with_the_same_state(tmp_path: Path) -> None:
    """Nothing is left but to evaluate; what is then saved has the rates of the last step."""
    options: dict[str, Any] = {"rate": lambda step: 0.1 / (1 + step), "evaluate": lambda *_: {"AP": 0.5}}
    for part in ("whole", "cut"):
        (tmp_path / part).mkdir(exist_ok=True)
    trainer(Line(), tmp_path / "whole", **options).fit(batches())
    trainer(Line(), tmp_path / "cut", rate=options["rate"]).fit(batches())
    trainer(Line(), tmp_path / "cut", resume=load(tmp_path / "cut" / "last.pt"), **options).fit([])
    whole, cut = (load(tmp_path / part / "last.pt") for part in ("whole", "cut"))
    assert cut.evaluated == whole.evaluated == 4
    assert cut.optimizer["param_groups"] == whole.optimizer["param_groups"]
