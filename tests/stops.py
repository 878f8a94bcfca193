"""Trainings as processes of their own, to be stopped as systems and people stop them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Two processes on this machine.
TWO = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "maskrcnn")

#: A run that goes on until it is stopped.
ENDLESS = ("solver.steps=1000000", "data.val=null")


@contextmanager
def training(
    recipe: Path,
    run: Path,
    *changes: str,
    program: Sequence[str] = ("-m", "maskrcnn"),
    first: Callable[[], object] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """``maskrcnn train`` in a process group of its own, which is killed at the end.

    first: called in the child before it starts.
    """
    settings = [part for change in changes for part in ("--set", change)]
    run.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *program, "train", str(recipe), "--resume", str(run), *settings]
    with started(command, first) as process:
        yield process


@contextmanager
def started(
    command: Sequence[str], first: Callable[[], object] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, which is killed at the end; ``first`` as above."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=first,
    )
    try:
        yield process
    finally:
        for pid in everyone(process.pid):
            kill(pid)
        process.communicate()


def kill(pid: int) -> None:
    """SIGKILL to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(process: subprocess.Popen[str], start: str) -> str:
    """Read the output up to the first line that begins so."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(start):
            return line
    assert process.stderr is not None
    raise AssertionError(f"no line {start!r} in:\n{''.join(seen)}\n{process.stderr.read()}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and standard error, once it has ended."""
    _, complaint = process.communicate(timeout=120)
    return process.returncode, complaint


def children(pid: int) -> list[int]:
    """Process ids of the loader workers."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def everyone(pid: int) -> list[int]:
    """A process and all that it started, whatever their groups: whom systemd and Slurm signal."""
    return [pid, *(p for child in children(pid) for p in everyone(child))]


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"
