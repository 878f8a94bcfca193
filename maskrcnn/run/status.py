"""How far runs are, and whether a process works on them, from what lies in their folders alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.config.nodes import Map, Problems, Scalar
from maskrcnn.config.text import parse
from maskrcnn.engine.console import ENDED
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.engine.saving import improved
from maskrcnn.errors import UserError
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.lock import RunLock
from maskrcnn.viz.tables import Table

#: Bytes at the end of a log that are read.
_TAIL = 2**20
#: A line of a log: when, and what.
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (.*)")
#: A progress line, see ``engine.events``.
_PROGRESS = re.compile(r"step \d+/(\d+)  (?:epoch ([\d.]+/[\d.]+)  )?loss .*  eta (\S+)$")
#: What a run that came to its end says last.
_DONE = re.compile(r"(already )?finished\b|all \d+ steps were finished before")


@dataclass(frozen=True)
class Status:
    """A run; what is not known is None.

    step, total: finished steps, and how many there will be.
    epoch: as ``0.30/6.75``.  loss: the mean of the last log; rate: images a second there.
    best: (metric, value, step) of the best evaluation.
    eta: what the last progress line said.
    running: whether a process works on it.
    state: who does, or when and why it ended, in words.
    """

    folder: Path
    step: int
    total: int | None
    epoch: str | None
    loss: float | None
    rate: float | None
    best: tuple[str, float, int] | None
    eta: str | None
    running: bool
    state: str


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders that are named, or lie in folders that are named.

    Raises:
        UserError: one is no run folder and holds none.
    """
    found = []
    for path in paths:
        runs = [path] if _is_run(path) else []
        if not runs and path.is_dir():
            runs = sorted(p for p in path.iterdir() if _is_run(p))
        if not runs:
            what = "is no run folder and holds none" if path.exists() else "there is no such folder"
            raise UserError(f"{path}: {what}; name what maskrcnn train was given as --output")
        found += runs
    return found


def _is_run(path: Path) -> bool:
    folder = RunFolder(path)
    return folder.facts.is_file() or folder.metrics.is_file()


def status_of(path: Path) -> Status:
    """How a run stands."""
    folder = RunFolder(path)
    records = read_metrics(folder.metrics)
    trained: dict[str, Any] = next((r for r in reversed(records) if r.get("kind") == "train"), {})
    lines = [(found[1], found[2]) for found in map(_LINE.match, _tail(folder.log)) if found]
    progress = next((found for _, text in reversed(lines) if (found := _PROGRESS.match(text))), None)
    total, epoch, eta = progress.groups() if progress else (None, None, None)
    holder = RunLock(path).seen()
    running = holder is not None and holder[1]
    if holder is None:
        state = _end(lines)
    else:
        last = f"; last line {lines[-1][0]}" if lines and not running else ""
        state = f"{'running' if running else 'died'}: {holder[0] or 'an unknown process'}{last}"
    best = best_evaluation(records, _best_metric(folder.config))
    step = int(best.pop("step", 0))
    return Status(
        path,
        step=max((r["step"] for r in records if r.get("kind") in ("train", "end")), default=0),
        total=None if total is None else int(total),
        epoch=epoch,
        loss=trained.get("loss"),
        rate=trained.get("images_per_second"),
        best=next(((name, value, step) for name, value in best.items()), None),
        eta=eta if running else None,
        running=running,
        state=state,
    )


def best_evaluation(records: Iterable[Mapping[str, Any]], wanted: str | None) -> dict[str, float]:
    """The metric that decides and its step, ``{metric: value, "step": step}``, of the best evaluation among
    records of ``metrics.jsonl``; empty where there is none.  wanted: ``eval.best_metric``.
    """
    best: dict[str, float] = {}
    for record in records:
        figures = {k: v for k, v in record.items() if "/" in k and isinstance(v, float | int)}
        if record.get("kind") == "eval" and (wanted is None or wanted in figures):
            best = improved(figures, wanted, best, record["step"]) or best
    return best


def _tail(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            yield from file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return


def _end(lines: Sequence[tuple[str, str]]) -> str:
    """When a run that no process works on ended, and why."""
    for when, text in reversed(lines):
        if text.startswith(ENDED):
            return f"stopped {when}: {text.removeprefix(ENDED)}"
        if _DONE.match(text):
            return f"finished {when}"
        if _PROGRESS.match(text):
            break
    return f"stopped {lines[-1][0]}, and log.txt does not say why" if lines else "has not begun"


def _best_metric(config: Path) -> str | None:
    """``eval.best_metric`` of a run's config, which is read without the plugins that it may name."""
    try:
        node = parse(config.read_text(encoding="utf-8"), str(config), Problems())
    except (OSError, ValueError):
        return None
    for key in ("eval", "best_metric"):
        node = node.entries[key].node if isinstance(node, Map) and key in node.entries else None
    return node.value if isinstance(node, Scalar) and isinstance(node.value, str) else None


def table(runs: Sequence[Status]) -> str:
    """A line a run."""
    head = ("run", "step", "epoch", "loss", "best", "img/s", "eta", "state")
    rows = []
    for run in runs:
        best = "-" if run.best is None else f"{run.best[0]} {run.best[1]:.3f} (step {run.best[2]})"
        rows.append(
            (
                str(run.folder),
                f"{run.step}/{'?' if run.total is None else run.total}",
                run.epoch or "-",
                _number(run.loss, 3),
                best,
                _number(run.rate, 2),
                run.eta or "-",
                run.state,
            )
        )
    return Table(head, rows, left=(0, 4, 7)).text()


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
