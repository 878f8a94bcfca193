"""A run that was stopped and went on is the run that never stopped, to the bit.

Covers ``maskrcnn/run/evaluations.py``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.faults import kills
from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import Checkpoint, load
from maskrcnn.engine.console import Console
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import CheckpointError, DataError, UserError
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import train
from tests.engine.tiny import write_data, write_recipe

ROOT = Path(__file__).resolve().parent.parent


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a.equal(b)) if hasattr(a, "equal") else a == b


def assert_same_state(a: Checkpoint, b: Checkpoint) -> None:
    for field in dataclasses.fields(Checkpoint):
        if field.name != "config":  # says the number of workers
            assert equal(getattr(a, field.name), getattr(b, field.name)), field.name


class StopAfter(Console):
    """Presses Ctrl-C when the log says that a step is done."""

    def __init__(self, step: int) -> None:
        super().__init__(quiet=True)
        self.mark = f"step {step}/"

    def line(self, text: str = "") -> None:
        if text.startswith(self.mark):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def straight(recipe_file: Path) -> Path:
    """A run of six steps without a stop."""
    folder = recipe_file.parent / "straight"
    result = train(load_recipe(recipe_file), folder, console=Console(quiet=True))
    assert result.step == 6
    assert set(result.metrics) >= {"bbox/AP", "segm/AP50"}
    return folder


def last(folder: Path) -> Checkpoint:
    return load(folder / "checkpoints" / "last.pt")


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_and_go_on_equals_one_run(
    recipe_file: Path, straight: Path, tmp_path: Path, workers: int
) -> None:
    recipe = load_recipe(recipe_file, [f"data.workers={workers}"])
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        train(recipe, tmp_path / "run", console=StopAfter(2))
    assert last(tmp_path / "run").step == 3
    train(recipe, tmp_path / "run", resume=True, console=Console(quiet=True))
    assert_same_state(last(straight), last(tmp_path / "run"))

    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (straight, tmp_path / "run"))
    assert [r["step"] for r in two] == [1, 2, 3, 4, 5, 6, 6]
    for key in ("loss", "loss_mask", "lr", "grad_norm", "segm/AP"):
        assert [r.get(key) for r in one] == [r.get(key) for r in two]
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())) == 2


def test_another_seed_is_another_run(recipe_file: Path, straight: Path, tmp_path: Path) -> None:
    train(
        load_recipe(recipe_file, ["seed=1", "solver.steps=1"]), tmp_path / "run", console=Console(quiet=True)
    )
    losses = [read_metrics(f / "metrics.jsonl")[0]["loss"] for f in (straight, tmp_path / "run")]
    assert losses[0] != losses[1]


def test_a_killed_run_goes_on_from_its_last_readable_checkpoint(
    recipe_file: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(recipe_file, ["train.checkpoint_every=1"])
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", console=StopAfter(3))
    newest = tmp_path / "run" / "checkpoints" / "step_00000004.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    train(recipe, tmp_path / "run", resume=True, console=Console(quiet=True))
    text = capsys.readouterr().err
    assert "step_00000004.pt: damaged or cut short" in text
    assert "going on from" in text
    assert "step_00000003.pt instead" in text
    assert_same_state(last(straight), last(tmp_path / "run"))


def test_ctrl_c_on_the_command_line_saves_and_says_how_to_go_on(
    recipe_file: Path, straight: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "maskrcnn", "train", str(recipe_file), "--output", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--set", "data.workers=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2/6"):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    assert process.stderr is not None
    complaint = process.stderr.read()
    assert process.wait() == 130
    assert "checkpoint written; to go on: maskrcnn train" in complaint
    assert f"--resume {tmp_path / 'run'}" in complaint
    assert "Traceback" not in complaint
    assert last(tmp_path / "run").step in (3, 4)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert last(tmp_path / "run").step == 6


def test_a_finished_run_resumed_does_nothing_and_knows_its_figures(recipe_file: Path, straight: Path) -> None:
    before = (straight / "checkpoints" / "last.pt").read_bytes()
    result = train(load_recipe(recipe_file), straight, resume=True, console=Console(quiet=True))
    assert result.step == 6
    assert "segm/AP" in result.metrics
    assert (straight / "checkpoints" / "last.pt").read_bytes() == before


def test_the_last_lines_say_what_a_call_did(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = load_recipe(recipe_file), tmp_path / "run"
    resume(load_recipe(recipe_file, ["solver.steps=2", "data.val=null"]), run)
    train(recipe, run, resume=True)
    out = capsys.readouterr().out
    assert "6 steps of 2 images: 2.4 epochs" in out
    assert "finished 6 steps, 4 of them in this call, in " in out
    assert f"best segm/AP {last(run).best['segm/AP']:.3f}, after step 6: checkpoints/best.pt" in out
    train(recipe, run, resume=True)
    out = capsys.readouterr().out
    assert f"already finished: 6 steps were done before, nothing to do (solver.steps: 6): {run}" in out
    assert "best segm/AP" in out and "finished 6 steps" not in out
    command = ["train", "--resume", str(run), "--set", "solver.steps=7"]  # what it says decides
    assert main(command) == 0
    assert "finished 7 steps, 1 of them in this call, in " in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
@pytest.mark.parametrize(
    ("ranks", "times"),
    [(1, 1), pytest.param(1, 4, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow)],
)
def test_kills_at_random_moments_change_no_bit(
    recipe_file: Path, tmp_path: Path, ranks: int, times: int
) -> None:
    """All options that kills.py knows, and another number of loading processes at each start."""
    told: list[str] = []
    changes = [change for keys in kills.OPTIONS.values() for change in keys]
    changes += ["solver.steps=12", "solver.batch_size=4", "train.checkpoint_every=1", "train.eval_every=5"]
    options: dict[str, Any] = {"changes": changes, "workers": (2, 0, 1), "ranks": ranks, "tell": told.append}
    assert kills.harm(recipe_file, tmp_path, kills=times, seed=3, **options) == []
    # A run that gets far between two kills may come to its end before the last.
    assert re.fullmatch(rf"[{(times + 1) // 2}-{times}] kills: equal to the bit", told[-1]), told
    # What compares sees a single bit.
    whole = last(tmp_path / "straight")
    name, tensor = next(iter(whole.model.items()))
    other = tensor.clone()
    other[(0,) * other.dim()] += 1e-6
    changed = dataclasses.replace(whole, model={**whole.model, name: other})
    assert kills.differences(whole, changed) == [f"model.{name}"]


def resume(recipe: Recipe, folder: Path) -> None:
    train(recipe, folder, resume=True, console=Console(quiet=True))


def test_resuming_with_other_values_is_told(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume(load_recipe(recipe_file, ["solver.steps=1"]), tmp_path / "run")
    assert "other values" not in capsys.readouterr().err
    resume(load_recipe(recipe_file, ["solver.steps=2"]), tmp_path / "run")
    assert "solver.steps: 1 -> 2" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"past solver\.steps 1; set solver\.steps to 2 or more"):
        resume(load_recipe(recipe_file, ["solver.steps=1"]), tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"does not fit this model.*another architecture|number of classes"
    ):
        resume(load_recipe(recipe_file, ["model.neck.out_channels=8"]), tmp_path / "run")


def test_another_optimizer_is_refused_and_the_run_can_still_go_on(
    recipe_file: Path, straight: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    before = {f: (folder / f).read_bytes() for f in ("config.yaml", "run.json")}
    other = load_recipe(recipe_file, ["solver.optimizer={type: adamw}", "solver.steps=99"])
    with pytest.raises(CheckpointError, match="its optimizer's state does not fit"):
        resume(other, folder)
    assert before == {f: (folder / f).read_bytes() for f in before}


def test_a_file_with_more_or_fewer_parts_goes_on_and_says_so_once(
    recipe_file: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a later maskrcnn adds is left out; what a file lacks begins afresh; --strict refuses both."""
    recipe = load_recipe(recipe_file, ["train.checkpoint_every=3"])
    command = ["train", str(recipe_file), "--set", "train.checkpoint_every=3", "--strict", "--resume"]
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", console=StopAfter(2))
    for name, part, sentence, same in (
        ("more", {"later": {"w": torch.ones(1)}}, "holds 'later', unknown here", True),
        ("fewer", {"optimizer": None}, "does not hold optimizer, so the run goes on without", False),
    ):
        folder = tmp_path / name
        shutil.copytree(tmp_path / "run", folder)
        (folder / "checkpoints" / "last.pt").unlink()  # a hard link
        file = folder / "checkpoints" / "step_00000003.pt"
        content = torch.load(file, weights_only=True) | part
        torch.save({key: value for key, value in content.items() if value is not None}, file)
        assert main([*command, str(folder)]) == 2
        assert f"{file} {sentence}" in capsys.readouterr().err
        assert main([word for word in command if word != "--strict"] + [str(folder)]) == 0
        assert capsys.readouterr().err.count(sentence) == 1
        ended = last(folder)
        assert ended.more.keys() == {"shares"}
        assert equal(ended.model, last(straight).model) == same


def test_resuming_on_other_classes_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    resume(load_recipe(path, ["solver.steps=1", "data.val=null"]), tmp_path / "run")
    write_data(tmp_path / "images", names=("box", "ring"))
    with pytest.raises(DataError, match="5 is 'disc', there 'ring'"):
        resume(load_recipe(path, ["solver.steps=2", "data.val=null"]), tmp_path / "run")


def test_what_changed_since_the_stop_is_told_and_strict_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = write_recipe(tmp_path), tmp_path / "run"
    common = ["train", str(path), "--set", "data.val=null", "--set"]
    assert main([*common, "solver.steps=1", "--output", str(run)]) == 0
    assert main([*common, "solver.steps=2", "--strict", "--output", str(run)]) == 2
    assert "--strict compares a run with its resumption" in capsys.readouterr().err
    image = tmp_path / "images" / "1.png"
    image.write_bytes(image.read_bytes() + b"\0")
    monkeypatch.setattr("maskrcnn.engine.provenance.code_fingerprint", lambda: "0123456789ab")
    kept = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert main([*common, "solver.steps=2", "--strict", "--resume", str(run)]) == 2
    complaint = capsys.readouterr().err
    assert "solver.steps: 1 -> 2" in complaint
    assert "the training data (digest of annotations and image sizes) changed" in complaint
    assert "-> 0123456789ab" in complaint
    assert "nothing was written" in complaint
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == kept
    # The advice: restore what it began with, or leave --strict out.
    monkeypatch.undo()
    image.write_bytes(image.read_bytes()[:-1])
    assert main([*common, "solver.steps=1", "--strict", "--resume", str(run)]) == 0
    assert "changed since" not in capsys.readouterr().err
    image.write_bytes(image.read_bytes() + b"\0")
    assert main([*common, "solver.steps=2", "--resume", str(run)]) == 0
    assert "warning: the training data (digest" in capsys.readouterr().err
