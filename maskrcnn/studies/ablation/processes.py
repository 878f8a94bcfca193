"""Runs as processes over the devices there are; stopped cleanly, and gone on with later."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from maskrcnn.engine.console import Console
from maskrcnn.engine.interrupt import Interrupted, StopRequest
from maskrcnn.engine.provenance import code_fingerprint
from maskrcnn.errors import UserError, few, plural
from maskrcnn.files import locked, unwritten
from maskrcnn.studies.ablation.plan import Run
from maskrcnn.studies.ablation.progress import describe, read_progress, time_left

#: Seconds between two looks at the processes, and between two progress lines.
_POLL, _TELL = 0.2, 30.0
#: Seconds that a process told to end at once is given.
_GRACE = 10.0
#: Lines of a failed run's output that are repeated.
_LINES = 6
_CHANGED = "the package's sources were changed since these runs began; a run from here on would not compare"

#: Environment of a place on which one run at a time is trained.
Slot = dict[str, str]


def find_slots(runs: Sequence[Run], processes: int) -> list[Slot]:
    """One slot on a CPU; else one for every ``processes`` GPUs.

    Raises:
        UserError: fewer GPUs than a run needs.
    """
    if not torch.cuda.is_available() or all(run.recipe.device == "cpu" for run in runs):
        return [{}]
    # What CUDA makes of the variable: nothing from the first entry on that it does not know.
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    gpus = named[:count] if named else [str(i) for i in range(count)]
    if len(gpus) < processes:
        raise UserError(f"--nproc-per-run {processes} needs as many GPUs; PyTorch sees {len(gpus)}")
    starts = range(0, len(gpus) - processes + 1, processes)
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i : i + processes])} for i in starts]


def command(run: Run, processes: int) -> list[str]:
    """What trains a run, or goes on with it, from the recipe in its folder."""
    module = ["-m", "maskrcnn", "train", "--resume", str(run.folder.path)]
    if processes == 1:
        return [sys.executable, *module]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *torchrun, *module]


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[int | None]:
    """Hold the suite's folder; runs inherit the lock, so it outlives a parent that was killed.

    Yields:
        the lock's file descriptor, None where there are no such locks (Windows).

    Raises:
        UserError: another process trains in this folder, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError:
            raise UserError(
                f"{folder}: runs of this suite are being trained there already; wait, or use --output"
            ) from None
        except OSError as error:
            raise unwritten(folder, error) from None
        yield lock


@dataclass
class _Active:
    run: Run
    process: subprocess.Popen[bytes]
    slot: Slot
    last_line: float
    told_to_stop: bool = False


@dataclass
class Scheduler:
    """Trains runs, ``len(slots)`` at a time.

    slots: see :func:`find_slots`.
    processes: of each run.
    tell: takes progress lines.
    code: fingerprint of the code that must train them; None: whatever is there.
    lock: a file descriptor that the processes inherit, see :func:`claim`.
    """

    slots: Sequence[Slot]
    processes: int
    tell: Callable[[str], None]
    code: str | None = None
    lock: int | None = None

    def __post_init__(self) -> None:
        self._free = list(self.slots)
        self._active: list[_Active] = []

    def train(self, runs: Sequence[Run], resume_hint: str) -> dict[str, str]:
        """Train all of ``runs``; one that fails does not hold up the others.

        Returns:
            what went wrong, by the name of the run.

        Raises:
            Interrupted: Ctrl-C or SIGTERM, once every process has written its checkpoint.
        """
        waiting, done = list(runs), 0
        failures: dict[str, str] = {}
        with StopRequest() as stop:
            try:
                while self._active or (waiting and not stop.signal_number):
                    if waiting and self._free and self.code not in (None, code_fingerprint()):
                        failures |= {run.name: _CHANGED for run in waiting}
                        self.tell(_CHANGED)
                        waiting.clear()
                    while waiting and self._free and not stop.signal_number:
                        run, number = waiting.pop(0), done + len(failures) + len(self._active) + 1
                        try:
                            self._start(run, len(runs), number)
                        except UserError as error:
                            failures[run.name] = str(error)
                            self.tell(f"failed {run.name}: {error}")
                    if stop.signal_number:
                        self._ask_to_stop()
                    for active in [a for a in self._active if a.process.poll() is not None]:
                        self._active.remove(active)
                        self._free.append(active.slot)
                        problem = self._problem(active)
                        if problem is None:
                            done += 1
                            self.tell(f"finished {active.run.name}")
                        elif not stop.signal_number:
                            failures[active.run.name] = problem
                            self.tell(f"failed {active.run.name}: {problem}")
                    self._report(runs)
                    time.sleep(_POLL)
            finally:
                self._kill()
            if stop.signal_number and done + len(failures) < len(runs):
                raise Interrupted(
                    f"stopped; {done} of {plural(len(runs), 'run')} were finished, checkpoints are written;"
                    f" to go on: {resume_hint}",
                    stop.signal_number,
                )
        return failures

    def _start(self, run: Run, total: int, number: int) -> None:
        run.prepare()
        slot = self._free.pop(0)
        at = "" if not slot else " on GPU " + slot["CUDA_VISIBLE_DEVICES"]
        self.tell(f"[{number}/{total}] {run.name}{at}: {run.folder.path}")
        # The children import what we import, plugins' folders included.
        environment = {**os.environ, **slot, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
        with run.log_file.open("ab") as output:
            process = subprocess.Popen(
                command(run, self.processes),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # the terminal's Ctrl-C is ours to pass on
                pass_fds=() if self.lock is None else (self.lock,),
            )
        self._active.append(_Active(run, process, slot, time.monotonic()))

    def _ask_to_stop(self) -> None:
        """One SIGTERM each: training and torchrun finish the step and write a checkpoint."""
        for active in self._active:
            if not active.told_to_stop:
                active.told_to_stop = True
                active.process.terminate()

    def _problem(self, active: _Active) -> str | None:
        status = active.process.returncode
        if status == 0:
            if active.run.is_finished():
                return None
            return (
                f"its process ended well, but {active.run.folder.figures} or results.json is not there or not"
                " of its last step; move the run's folder away, and the next call trains it again"
            )
        text = active.run.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "".join(f"\n  {line}" for line in text[-_LINES:])
        return f"exit status {status}, see {active.run.log_file}{tail}"

    def _report(self, runs: Sequence[Run]) -> None:
        now = time.monotonic()
        due = [a for a in self._active if now - a.last_line >= _TELL]
        if not due:
            return
        found = [read_progress(run) for run in runs]
        left = time_left(runs, found, len(self.slots))
        for active in due:
            active.last_line = now
            mine = found[next(i for i, run in enumerate(runs) if run is active.run)]
            self.tell(f"  {active.run.name}: {describe(active.run, mine, left)}")

    def _kill(self) -> None:
        """End what still runs: nothing, unless an exception or a second Ctrl-C came."""
        for active in self._active:
            active.process.terminate()
        for active in self._active:
            try:
                active.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                active.process.kill()
                active.process.wait()
        self._active.clear()


def train_missing(
    runs: Sequence[Run], folder: Path, processes: int, rerun_stale: bool, resume_hint: str
) -> dict[str, str]:
    """Train every run that is not finished; begun ones go on from their checkpoint.

    Args:
        folder: the suite's.
        processes: of each run.
        rerun_stale: set stale runs aside and train them again, instead of refusing.
        resume_hint: the command that goes on, for messages.

    Returns:
        what went wrong, by the name of the run.

    Raises:
        UserError: there are stale runs, the folder is in use, or there are too few GPUs.
        Interrupted: see :meth:`Scheduler.train`.
    """
    code = code_fingerprint()
    slots = find_slots(runs, processes)
    console = Console()
    with claim(folder) as lock:
        stale = {run.name: why for run in runs if (why := run.why_stale(code))}
        if stale and not rerun_stale:
            raise UserError(
                f"{len(stale)} of {plural(len(runs), 'run')} in {folder} are not of this code and config,"
                " and are not mixed with new ones; --rerun-stale sets them aside and trains them again,"
                " another --output keeps both, --report reports the old ones of one code:\n  "
                + few((f"{name}: {why}" for name, why in stale.items()), 10, "\n  ")
            )
        for run in runs:
            if run.name in stale:
                console.line(f"set aside: {run.set_aside()}")
        states = Counter(run.state(code) for run in runs)
        console.line(
            f"{plural(len(runs), 'run')} in {folder}: {states['done']} finished, {states['partial']} begun,"
            f" {states['new']} to begin; {len(slots)} at a time, code {code}"
        )
        missing = [run for run in runs if run.state(code) != "done"]
        return Scheduler(slots, processes, console.line, code=code, lock=lock).train(missing, resume_hint)
