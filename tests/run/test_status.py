"""How far runs are, by their folders."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.engine.console import Console
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.files import write_text
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train
from maskrcnn.run.lock import NAME, RunLock, here
from maskrcnn.run.status import status_of
from tests.engine.tiny import write_recipe


class StopAt(Console):
    """Presses Ctrl-C once the log has said that a step is done."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.mark = f"step {step}/"

    def line(self, text: str = "") -> None:
        super().line(text)
        if text.startswith(self.mark):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and one that was stopped after step 2."""
    folder = tmp_path_factory.mktemp("status")
    recipe = load_recipe(
        write_recipe(folder), ["solver.steps=3", "train.eval_every=1", "eval.best_metric=bbox/AR100"]
    )
    train(recipe, folder / "runs" / "whole", console=Console())
    with pytest.raises(Interrupted):
        train(recipe, folder / "runs" / "stopped", console=StopAt(2))
    return folder / "runs"


@pytest.fixture
def stopped(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "stopped", tmp_path / "run"))


def test_a_finished_run(runs: Path) -> None:
    found = status_of(runs / "whole")
    records = read_metrics(runs / "whole" / "metrics.jsonl")
    (last,) = (r for r in records if r["kind"] == "train" and r["step"] == 3)
    assert (found.step, found.total, found.epoch) == (3, 3, "1.20/1.20")
    assert (found.loss, found.rate) == (last["loss"], last["images_per_second"])
    assert found.eta is None and not found.running
    assert found.state.startswith("finished 2")
    figures = [(r["bbox/AR100"], -r["step"]) for r in records if r["kind"] == "eval"]
    value, step = max(figures)
    assert found.best == ("bbox/AR100", value, -step)


def test_a_stopped_run_says_when_and_why(runs: Path) -> None:
    found = status_of(runs / "stopped")
    assert (found.step, found.total, found.running) == (2, 3, False)
    assert "stopped 2" in found.state and "stopped by SIGINT after step 2 of 3" in found.state


def test_one_that_is_trained_has_a_time_left_and_its_process(stopped: Path) -> None:
    lock = RunLock(stopped)
    lock.take(print)
    try:
        found = status_of(stopped)
    finally:
        lock.release()
    assert found.running and found.eta is not None
    assert found.state.startswith(f"running: process {here().pid} on ")
    assert not status_of(stopped).running


def test_one_whose_process_died_is_told_as_that(stopped: Path) -> None:
    write_text(stopped / NAME, json.dumps(asdict(replace(here(), born=1))))
    found = status_of(stopped)
    assert not found.running and found.state.startswith("died: process ") and "; last line 2" in found.state


def test_one_that_was_resumed_is_not_what_stopped_it_before(stopped: Path) -> None:
    recipe = load_recipe(stopped / "config.yaml")
    train(recipe, stopped, resume=True, console=Console())
    assert status_of(stopped).state.startswith("finished")


def test_what_stopped_an_earlier_call_is_not_taken_for_the_last(stopped: Path) -> None:
    log = (stopped / "log.txt").read_text()
    (line,) = (line for line in log.splitlines() if " step 2/3 " in line)
    (stopped / "log.txt").write_text(log + line + "\n")
    assert status_of(stopped).state == f"stopped {line[:19]}, and log.txt does not say why"


def test_an_error_that_ended_it_is_in_the_log(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.open(stopped / "log.txt")
    console.line("going on")
    with pytest.raises(ZeroDivisionError), console.last_words():
        raise ZeroDivisionError("a\nbug")
    console.close()
    assert status_of(stopped).state.endswith(": ZeroDivisionError: a bug")
    assert "bug" not in "".join(capsys.readouterr())


def test_the_command_shows_a_line_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(runs)]) == 0  # the folder of them
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "step", "epoch", "loss", "best", "img/s", "eta", "state"]
    assert "2/3" in first and "stopped 2" in first and "bbox/AR100 0." in second and "finished" in second
    assert main(["status", str(runs / "whole"), str(runs / "stopped"), "--watch"]) == 0  # none is running
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["status", str(runs / "stopped")]) == 0
    head, only = capsys.readouterr().out.splitlines()
    assert only.count("stopped 2") == 1 and only[head.index("state") :].startswith("stopped 2")
    assert main(["status", str(runs / "whole"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["step"] == 3 and found["running"] is False


def test_what_is_no_run_is_a_sentence(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert f"{tmp_path}: is no run folder and holds none" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["status", str(runs), "--watch", "0"]) == 2
    assert "--watch must be at least 0.1" in capsys.readouterr().err
