"""How far runs are, what a step costs, and how long all of them will still take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from maskrcnn.engine.events import format_seconds
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.studies.ablation.plan import Run


@dataclass(frozen=True)
class RunCost:
    """What a run's ``metrics.jsonl`` says.

    step: finished steps, as far as logged.
    step_seconds: median wall time of a step, data included; None before the first log.
    eval_seconds: mean wall time of an evaluation; None before the first.
    evaluations: how many were made.
    memory: peak in bytes (see ``engine.memory.memory_in_use``); None before the first log.
    """

    step: int
    step_seconds: float | None
    eval_seconds: float | None
    evaluations: int
    memory: int | None


def read_progress(run: Run) -> RunCost:
    """The progress of a run; of one that has not begun, step 0 and no times."""
    records = read_metrics(run.folder.metrics)
    steps = [r for r in records if r.get("kind") == "train" and r.get("images_per_second")]
    # The first interval holds the warming up of caches and allocator.
    seconds = [run.recipe.solver.batch_size / r["images_per_second"] for r in steps[1:] or steps]
    evaluations = [float(r["seconds"]) for r in records if r.get("kind") == "eval"]
    return RunCost(
        step=max((r["step"] for r in records), default=0),
        step_seconds=statistics.median(seconds) if seconds else None,
        eval_seconds=statistics.fmean(evaluations) if evaluations else None,
        evaluations=len(evaluations),
        memory=max((int(r["memory_bytes"]) for r in steps), default=None),
    )


def time_left(runs: Sequence[Run], found: Sequence[RunCost], slots: int) -> float | None:
    """Seconds until all runs are finished on ``slots`` devices; None before anything was measured.

    A run that has measured nothing is taken to cost what its variant costs with another seed, or else what
    the others do on average.
    """

    def guess(run: Run, values: Sequence[float | None]) -> float | None:
        pairs = [(r, v) for r, v in zip(runs, values, strict=True) if v is not None]
        own = [v for r, v in pairs if r is run]
        same = [v for r, v in pairs if r.variant.label == run.variant.label]
        chosen = own or same or [v for _, v in pairs]
        return statistics.fmean(chosen) if chosen else None

    parts = []
    for run, now in zip(runs, found, strict=True):
        step_seconds = guess(run, [p.step_seconds for p in found])
        if step_seconds is None:
            return None
        solver, every = run.recipe.solver, run.recipe.train.eval_every
        wanted = -(-solver.steps // every) if every else 1
        eval_seconds = guess(run, [p.eval_seconds for p in found]) or 0.0
        parts.append(
            (solver.steps - now.step) * step_seconds + max(wanted - now.evaluations, 0) * eval_seconds
        )
    return max(sum(parts) / slots, max(parts, default=0.0))


def describe(run: Run, now: RunCost, left: float | None) -> str:
    """``step 40/500, 0.52 s a step, 4m00s left for all``."""
    parts = [f"step {now.step}/{run.recipe.solver.steps}"]
    if now.step_seconds is not None:
        parts.append(f"{now.step_seconds:.2f} s a step")
    if left is not None:
        parts.append(f"{format_seconds(left)} left for all")
    return ", ".join(parts)
