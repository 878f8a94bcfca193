"""Train a recipe in a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks, connect
from maskrcnn.engine.events import format_seconds
from maskrcnn.engine.interrupt import stop_at_once
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import plural
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.lock import RunLock
from maskrcnn.run.room import check_folder
from maskrcnn.run.training import REPORTS, TrainingRun


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    folder: everything it wrote.
    step: finished steps.
    metrics: of its last evaluation, name -> value; empty without evaluation (and on ranks other than 0).
    best: name and value of the best metric, and its step.
    """

    folder: RunFolder
    step: int
    metrics: dict[str, float]
    best: dict[str, float]


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    resume_hint: str = "train again with --resume",
    strict: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train to the recipe's last step, with evaluations and checkpoints.

    Args:
        recipe: all that decides the run.
        output: run folder; must be new or empty unless ``resume``.
        resume: go on from the folder's newest readable checkpoint; from the start where there is none.
        resume_hint: how to go on, for messages.
        strict: refuse to go on where data, code, config, torch or devices are not what they were.
        console: where lines go; by default a new one.

    Raises:
        UserError: and its kinds, see :class:`maskrcnn.engine.trainer.Trainer`, ``run.setup``; another process
            works in the folder.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, once the checkpoint is written; outside of the
            steps SIGTERM or SIGHUP, at once.
    """
    began = time.monotonic()
    kept = keep_freed_memory()
    ranks = connect(recipe.device)
    console = console or setup.new_console(ranks)
    folder = RunFolder(output)

    def stopped(name: str) -> str:
        begun = (
            f"what was saved is kept; to go on: {resume_hint}" if output.is_dir() else "nothing was written"
        )
        return f"stopped by {name} at once; {begun}"

    with closing(console), stop_at_once(stopped) if ranks.size == 1 else nullcontext():
        console.take_logs()
        setup.one_first(ranks, folder.refuse_if_package if resume else folder.refuse_if_used)
        setup.main_alone(ranks, lambda: check_folder(output))
        with _locked(folder, ranks, console) as lock:
            if not resume:  # another run may have begun and ended while this one waited
                setup.main_alone(ranks, folder.refuse_if_used)
            run = TrainingRun(recipe, folder, ranks, console, lock, resume=resume)
            trainer = run.begin(resume, resume_hint, strict)
            console.line(f"memory kept between steps: {'yes' if kept else 'no'}")
            start = trainer.state.step
            with console.last_words(), nullcontext() if run.events is None else run.events.closing():
                trainer.fit(run.batches(start))
            ranks.barrier()
            metrics = run.metrics or _metrics_on_file(folder)
            if ranks.is_main and recipe.eval.report and run.metrics:
                REPORTS.get("page")(run)
        if console.unwritten.missing:
            console.warn(f"not written to the end: {console.unwritten.names()}")
        state, took = trainer.state, format_seconds(time.monotonic() - began)
        done = _what_was_done(start, state.step, took, trainer.ended, evaluated=bool(run.metrics))
        console.line(f"{done}: {output}")
        best = {name: value for name, value in state.best.items() if name != "step"}
        for name, value in best.items():
            console.line(f"best {name} {value:.3f}, after step {state.best['step']:.0f}: checkpoints/best.pt")
        return TrainResult(folder, state.step, metrics, dict(state.best))


@contextmanager
def _locked(folder: RunFolder, ranks: Ranks, console: Console) -> Iterator[RunLock]:
    """Hold the run's folder; rank 0 does, for all.

    Raises:
        UserError: another process holds it, or it cannot be written; on every rank.
    """
    lock = RunLock(folder.path)
    try:
        setup.main_alone(ranks, lambda: lock.take(console.line))
        yield lock
    finally:
        try:
            lock.release()
        except BaseException:  # a signal came
            lock.release()
            raise


def _what_was_done(start: int, end: int, took: str, ended: str, *, evaluated: bool) -> str:
    steps = plural(end, "step was", "steps were")
    if start == end and evaluated:
        return f"{steps} finished before; evaluated in {took}"
    if start == end:
        why = "see above" if ended else f"solver.steps: {end}"
        return f"already finished: {steps} done before, nothing to do ({why})"
    return (
        f"finished {plural(end, 'step')}{f', {end - start} of them in this call,' if start else ''} in {took}"
    )


def _metrics_on_file(folder: RunFolder) -> dict[str, float]:
    """Those of the last evaluation, which a run that was finished before has on file."""
    records = [r for r in read_metrics(folder.metrics) if r.get("kind") == "eval"]
    return {k: v for k, v in records[-1].items() if "/" in k} if records else {}
