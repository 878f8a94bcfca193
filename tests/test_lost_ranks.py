"""Ranks that die or stand still, and torchrun that does: told on the others, and nothing trains on alone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskrcnn.run.lock import NAME
from tests.engine.tiny import write_recipe
from tests.stops import ENDLESS, TWO, children, ended, everyone, kill, lives, training, wait_for
from tests.test_resume import assert_same_state, last

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and POSIX signals")

HERE = re.escape(socket.gethostname())


def ranks_of(process: subprocess.Popen[str], run: Path) -> tuple[int, int]:
    """The processes of ranks 0 and 1."""
    first: int = json.loads((run / NAME).read_text())["pid"]
    (second,) = (pid for pid in children(process.pid) if pid != first)
    return first, second


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1], ids=["the_first", "the_second"])
def test_a_rank_that_is_stopped_is_told_within_a_minute(which: int, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(recipe, run, *ENDLESS, "train.checkpoint_every=5", program=TWO) as process:
        wait_for(process, "step 8/")
        ranks = ranks_of(process, run)
        began = time.monotonic()
        os.kill(ranks[which], signal.SIGSTOP)
        while lives(ranks[1 - which]):
            assert time.monotonic() - began < 60.0
            time.sleep(0.1)
        os.kill(ranks[which], signal.SIGCONT)  # else torchrun waits half a minute for it
        _, complaint = ended(process)
    told = rf"rank {which} on {HERE} stands still: its process was stopped 2\d s ago"
    assert re.search(rf"maskrcnn: error: .*{told}, its last words: made step \d+; what was saved", complaint)
    assert last(run).step >= 5


def test_a_rank_that_is_killed_is_named(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(recipe, run, *ENDLESS, program=TWO) as process:
        wait_for(process, "step 4/")
        first, second = ranks_of(process, run)
        os.kill(process.pid, signal.SIGSTOP)  # it would tell rank 0 to stop, too
        kill(second)
        wait_until_ended(first)  # between saving and telling, torchrun would end it
        os.kill(process.pid, signal.SIGCONT)
        _, complaint = ended(process)
    told = rf"rank 1 on {HERE} is gone, its last words: made step \d+; stopped after step \d+, the checkpoint"
    assert re.search(told, complaint)
    assert "maskrcnn/engine" not in complaint  # no traceback of ours


def wait_until_ended(process: int) -> None:
    deadline = time.monotonic() + 60.0
    while lives(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_stop_with_their_torchrun_and_save(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(recipe, run, *ENDLESS, program=TWO) as process:
        wait_for(process, "step 4/")
        own = [pid for pid in everyone(process.pid) if pid != process.pid]
        assert len(own) == 4  # two ranks and what watches them
        kill(process.pid)
        deadline = time.monotonic() + 30.0
        while any(lives(pid) for pid in own):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert last(run).step >= 4
    assert not (run / NAME).exists()


@pytest.mark.slow
def test_a_run_whose_ranks_are_killed_twice_ends_in_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    changes = ("solver.steps=40", "train.checkpoint_every=3", "train.eval_every=20")
    straight, run = tmp_path / "straight", tmp_path / "run"
    with training(recipe, straight, *changes, program=TWO) as process:
        assert ended(process)[0] == 0
    program = (*TWO[:2], "--max-restarts", "2", *TWO[2:])
    with training(recipe, run, *changes, program=program) as process:
        for which, step in ((1, 7), (0, 20)):
            wait_for(process, f"step {step}/40")
            kill(ranks_of(process, run)[which])
            wait_for(process, "going on after step")
        status, complaint = ended(process)
    assert status == 0, complaint
    assert_same_state(last(straight), last(run))
