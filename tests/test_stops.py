"""Stops lose nothing: signals to all processes, killed and hung ones, two on one folder, folders that go."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.console import Console
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train
from maskrcnn.run.lock import NAME, RunLock
from tests.engine.tiny import write_data, write_recipe
from tests.stops import (
    ENDLESS,
    TWO,
    children,
    ended,
    everyone,
    kill,
    lives,
    started,
    training,
    wait_for,
)
from tests.test_resume import assert_same_state, last

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes that are started: bits depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(recipe: Path) -> Path:
    """Six steps without a stop."""
    folder = recipe.parent / "straight"
    train(load_recipe(recipe), folder, console=Console(quiet=True))
    return folder


def step_files(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").glob("step_*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_all_processes_saves_the_step_and_the_run_goes_on_to_the_bit(
    recipe: Path, straight: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    run = tmp_path / "run"
    with training(recipe, run, "data.workers=2") as process:
        wait_for(process, "step 2/6")
        workers = children(process.pid)
        assert len(workers) == 2
        os.killpg(process.pid, number)
        found, complaint = ended(process)
    assert found == status, complaint
    assert f"stopped by {number.name} after step" in complaint
    assert "Traceback" not in complaint
    stop = last(run).step
    assert 2 <= stop < 6
    assert step_files(run) == [f"step_{stop:08d}.pt"]
    assert not (run / NAME).exists()
    assert not any(map(lives, workers))
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_state(last(straight), last(run))


#: The command line, which waits where it says a line that begins so.
PAUSED = """
import sys, time
from maskrcnn.cli import main
from maskrcnn.engine.console import Console
line = Console.line
def pausing(self, text=""):
    line(self, text)
    if text.startswith({start!r}):
        print("waiting", flush=True)
        time.sleep(60)
Console.line = pausing
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("number", "start", "words"),
    [
        (signal.SIGTERM, "a checkpoint takes", "nothing was written"),
        (signal.SIGTERM, "run folder", "what was saved is kept; to go on: maskrcnn train"),
        (signal.SIGHUP, "run folder", "what was saved is kept; to go on: maskrcnn train"),
    ],
)
def test_a_signal_before_the_first_step_leaves_no_lock(
    recipe: Path, straight: Path, tmp_path: Path, number: signal.Signals, start: str, words: str
) -> None:
    run = tmp_path / "runs" / "run"
    command = [sys.executable, "-c", PAUSED.format(start=start), "train", str(recipe), "--output", str(run)]
    with started(command) as process:
        wait_for(process, "waiting")
        assert (run / NAME).exists()
        os.killpg(process.pid, number)
        status, complaint = ended(process)
    assert status == 128 + number, complaint
    assert f"stopped by {number.name} at once; {words}" in complaint
    assert "Traceback" not in complaint
    assert not (run / NAME).exists()
    assert run.exists() == ("kept" in words)
    again = "--resume" if run.exists() else "--output"
    assert main(["train", str(recipe), again, str(run)]) == 0
    assert_same_state(last(straight), last(run))


def test_under_nohup_a_hangup_is_no_stop(recipe: Path, straight: Path, tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with training(recipe, tmp_path / "run", "data.workers=1", first=ignore) as process:
        wait_for(process, "step 1/6")
        os.killpg(process.pid, signal.SIGHUP)
        assert ended(process)[0] == 0
    assert_same_state(last(straight), last(tmp_path / "run"))


def test_a_stop_does_not_wait_for_a_worker_that_was_stopped(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(recipe, run, "data.workers=2", *ENDLESS) as process:
        wait_for(process, "step 3/")
        workers = children(process.pid)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        status, complaint = ended(process)
    assert status == 130, complaint
    assert "Traceback" not in complaint
    assert last(run).step >= 3
    assert not any(map(lives, workers))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "was ended by SIGKILL"),
        (signal.SIGBUS, "was ended by SIGBUS"),
        (signal.SIGSTOP, "was stopped by a signal"),
    ],
)
def test_without_a_worker_the_run_goes_on_to_the_bit(
    recipe: Path, tmp_path: Path, number: signal.Signals, words: str
) -> None:
    changes = ["solver.steps=40", "data.val=null"]
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(load_recipe(recipe, changes), straight, console=Console(quiet=True))
    with training(recipe, run, "data.workers=2", *changes) as process:
        wait_for(process, "step 3/")
        os.kill(children(process.pid)[0], number)
        status, complaint = ended(process)
    assert status == 0, complaint
    assert complaint.count(words) == 1
    reason = {signal.SIGKILL: "lower data.workers", signal.SIGBUS: "a full /dev/shm ("}
    assert reason.get(number, "") in complaint
    assert "made anew by new processes, and the run goes on" in complaint
    assert "Traceback" not in complaint
    assert_same_state(last(straight), last(run))


def test_workers_end_with_a_killed_run_whose_lock_is_then_taken_over(
    recipe: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with training(recipe, run, "data.workers=2", "train.checkpoint_every=1") as process:
        wait_for(process, "step 2/6")
        workers = children(process.pid)
        os.kill(workers[0], signal.SIGSTOP)
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(lives, workers)))
        assert json.loads((run / NAME).read_text())["pid"] == process.pid
        half = run / "checkpoints" / ".maskrcnn-0123456789abcdef.tmp"
        half.write_bytes(b"half a checkpoint")
        others = run / ".maskrcnn-notes.tmp"
        others.write_text("a user's")
        assert main(["train", str(recipe), "--resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"taking over the run folder from process {process.pid} on " in out
    assert "that process runs no more" in out
    assert re.search(
        r"^removed (1 temporary file|2 temporary files) of writes", out, re.MULTILINE
    )  # one was perhaps its own
    assert not half.exists()
    assert others.exists()
    assert not (run / NAME).exists()
    assert_same_state(last(straight), last(run))


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it never came true")


def test_a_second_process_on_a_live_run_is_refused_and_the_first_goes_on(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with training(recipe, run, *ENDLESS, "train.checkpoint_every=1") as process:
        wait_for(process, "step 2/")
        before = (run / "run.json").read_bytes()
        assert main(["train", str(recipe), "--resume", str(run)]) == 2
        complaint = capsys.readouterr().err
        assert f"is being trained already, by process {process.pid} on " in complaint
        assert ", since 2" in complaint
        assert f"delete {run / NAME}" in complaint
        assert (run / "run.json").read_bytes() == before
        step = last(run).step
        wait_for(process, f"step {step + 2}/")
        process.terminate()
        assert ended(process)[0] == 143


def test_a_folder_that_is_removed_is_told_and_stays_away(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(recipe, run, *ENDLESS, "train.checkpoint_every=3") as process:
        wait_for(process, "step 4/")
        shutil.rmtree(run)
        status, complaint = ended(process)
    assert status == 2
    assert f"{run}: the run folder was removed or renamed while the run was writing in it" in complaint
    assert "Traceback" not in complaint
    assert not run.exists()


def test_a_folder_that_was_renamed_goes_on_under_its_new_name(recipe: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    with training(recipe, run, *ENDLESS, "train.checkpoint_every=1") as process:
        wait_for(process, "step 4/")
        run.rename(other)
        status, complaint = ended(process)
    assert status == 2
    assert "if it was renamed, go on with maskrcnn train --resume and its new name" in complaint
    step = load(other / "checkpoints" / "last.pt").step
    assert main(["train", "--resume", str(other), "--set", f"solver.steps={step + 1}"]) == 0
    assert last(other).step == step + 1


def test_two_processes_stop_in_the_middle_of_an_evaluation_and_say_so_once(tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    write_data(tmp_path / "images", val=2000)
    with training(recipe, run, "solver.steps=2", "data.workers=1", program=TWO) as process:
        wait_for(process, "evaluating after step 2")
        for pid in everyone(process.pid):  # torchrun passes it on besides
            os.kill(pid, signal.SIGTERM)
        _, complaint = ended(process)
    assert complaint.count("stopped by SIGTERM after step 2 of 2, checkpoint written") == 1
    saved = last(run)
    assert (saved.step, saved.evaluated) == (2, 0)
    assert not (run / "figures.json").exists()
    assert not (run / NAME).exists()


def test_two_processes_are_refused_once(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lock = RunLock(run)
    lock.take(print)
    with training(recipe, run, program=TWO) as process:
        _, complaint = ended(process)
    lock.release()
    assert complaint.count("this run is being trained already, by process") == 1
    assert not run.exists() or not any(run.iterdir())


@pytest.mark.slow
def test_processes_that_torchrun_starts_again_find_each_other_and_go_on(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program = (*TWO[:2], "--max-restarts", "1", *TWO[2:])
    changes = ("solver.steps=300", "data.val=null", "train.checkpoint_every=1")
    with training(recipe, run, *changes, program=program) as process:
        wait_for(process, "step 4/300")
        kill(json.loads((run / NAME).read_text())["pid"])
        wait_for(process, "going on after step")
        wait_for(process, "step 12/300")
        for pid in everyone(process.pid):
            if pid != process.pid:  # torchrun itself would only pass it on
                os.kill(pid, signal.SIGTERM)
        _, complaint = ended(process)
    assert "stopped by SIGTERM after step" in complaint
    assert last(run).step >= 12
