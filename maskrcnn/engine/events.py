"""What is seen of a run while it runs: progress lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from maskrcnn.config.registry import Named
from maskrcnn.engine.console import Console
from maskrcnn.engine.metrics_file import MetricsFile
from maskrcnn.engine.step import StepResult
from maskrcnn.files import unwritten

#: What each loss tells, by the name that progress lines give it.
_MEANING = {
    "rpn_cls": "which anchors hold an object",
    "rpn_box": "boxes of the proposals",
    "box_cls": "classes of the boxes",
    "box_reg": "edges of the boxes",
    "mask": "masks in them",
    "keypoint": "keypoints in them",
}
#: Above this share of the time spent waiting for data the user is told once.
_DATA_BOUND = 0.3


class Board(Protocol):
    """A file of numbers and pictures (uint8 [H, W, 3] RGB); OSError where one cannot be written yet."""

    @property
    def path(self) -> Path: ...
    def scalar(self, name: str, value: float, step: int) -> None: ...
    def image(self, name: str, image: np.ndarray[Any, np.dtype[np.uint8]], step: int) -> None: ...
    def close(self) -> None: ...


#: By the key of ``train`` that asks for one: from a folder, and the step from which earlier records are void.
BOARDS: Named[Callable[[Path, int], Board]] = Named("board", "maskrcnn.engine", tensorboard="board")


@dataclass
class Tally:
    """What was done since the last log.

    losses: name -> sum over the steps of means over passes and ranks; :meth:`means` has the mean.
    steps, images: how many; images over all ranks.
    waiting: seconds that this rank waited for data.
    grad_norm: before clipping, of the last step; None where nothing is clipped.
    began: when, by ``time.perf_counter``; time that is spent on something else is added to it.
    """

    losses: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0
    images: int = 0
    waiting: float = 0.0
    grad_norm: float | None = None
    began: float = field(default_factory=lambda: time.perf_counter())

    def add(self, done: StepResult) -> None:
        """Count one step."""
        self.steps += 1
        self.images += done.images
        self.waiting += done.waiting
        self.grad_norm = done.grad_norm
        for name, value in done.losses.items():
            self.losses[name] += value

    def means(self) -> dict[str, float]:
        """name -> mean loss, of at least one step."""
        return {name: value / self.steps for name, value in self.losses.items()}


@dataclass
class Events:
    """Progress lines, and ``metrics.jsonl`` and TensorBoard files in the run folder; on rank 0 alone.

    What cannot be written goes to ``console.unwritten``.

    folder: the run folder; exists.
    console: where lines go.
    start_step: the step training goes on from; later records are dropped.
    tensorboard: also write ``folder/tensorboard``; a missing package is a warning.
    epoch_images: how many make an epoch, for progress lines; None: they do not tell epochs.

    Raises:
        OutputError: an earlier ``metrics.jsonl`` cannot be shortened to ``start_step``.
    """

    folder: Path
    console: Console
    _: KW_ONLY
    start_step: int = 0
    tensorboard: bool = True
    epoch_images: int | None = None

    def __post_init__(self) -> None:
        metrics = self.folder / "metrics.jsonl"
        try:
            self._metrics = MetricsFile(metrics, self.start_step)
        except OSError as error:
            raise unwritten(metrics, error) from None
        self._board: Board | None = None
        self._pace: float | None = None
        self._told_data_bound = False
        self._told_legend = False
        if self.tensorboard:
            try:
                self._board = BOARDS.get("tensorboard")(self.folder / "tensorboard", self.start_step + 1)
            except ImportError:
                self.console.warn("TensorBoard logs are off: the package 'tensorboard' is not installed")

    def progress(
        self,
        done: Tally,
        *,
        step: int,
        total: int,
        lr: float,
        memory: int,
        rates: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Show and keep one log step; before the first, what the parts of a line mean.

        Args:
            done: since the last log; at least one step.
            step: finished optimizer steps; total: how many there will be.
            lr: learning rate of the last step.
            memory: bytes, see ``engine.memory.memory_in_use``.
            rates: learning rates of parts that have their own, by name.
        """
        losses, seconds = done.means(), max(time.perf_counter() - done.began, 1e-9)
        if not self._told_legend:
            self._told_legend = True
            self.console.line(describe_legend(losses, clipped=done.grad_norm is not None))
        total_loss, rate, waiting = sum(losses.values()), done.images / seconds, done.waiting / seconds
        # Exponential mean for the ETA: one slow step must not double it.
        pace = seconds / done.steps
        self._pace = pace if self._pace is None else 0.7 * self._pace + 0.3 * pace
        epoch = ""
        if self.epoch_images:  # images seen by all ranks, in training sets
            share = done.images / done.steps / self.epoch_images
            epoch = f"epoch {step * share:.2f}/{total * share:.2f}  "
        other = f" ({', '.join(f'{name} {value:.2e}' for name, value in rates.items())})" if rates else ""
        clip = "" if done.grad_norm is None else f"  grad {done.grad_norm:.2f}"
        self.console.line(
            f"step {step}/{total}  {epoch}loss {total_loss:.3f} ({describe_losses(losses)})"
            f"  lr {lr:.2e}{other}{clip}  {rate:.2f} img/s  data {waiting:.0%}"
            f"  mem {memory / 2**30:.2f} GiB  eta {format_seconds(self._pace * (total - step))}"
        )
        values = {"loss": total_loss, **losses, "lr": lr, "images_per_second": rate, "data_wait": waiting}
        values |= {f"lr/{name}": value for name, value in rates.items()}
        values["memory_bytes"] = memory
        if done.grad_norm is not None:
            values["grad_norm"] = done.grad_norm
        self._write(step, "train", values)
        for name, value in values.items():
            group = "loss" if name.startswith("loss") else "train"
            self._scalar(f"{group}/{name.removeprefix('loss_')}", value, step)
        if waiting > _DATA_BOUND and step > 20 and not self._told_data_bound:
            self._told_data_bound = True
            self.console.warn(
                f"{waiting:.0%} of the time is spent waiting for data;"
                " raise data.workers, or use smaller images"
            )

    def evaluation(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Keep the figures of an evaluation."""
        self._write(step, "eval", {**metrics, "seconds": seconds})
        for name, value in metrics.items():
            self._scalar(name if name.startswith("val/") else f"eval/{name}", value, step)

    def end(self, step: int, why: str) -> None:
        """Keep that the run has ended after ``step``, though others were planned."""
        self._write(step, "end", {"why": why})

    def _write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        file = self._metrics
        self.console.unwritten.attempt(file.path, lambda: file.write(step, kind, values), grows=True)

    def _scalar(self, name: str, value: float, step: int) -> None:
        board = self._board
        if board is not None:
            self.console.unwritten.attempt(board.path, lambda: board.scalar(name, value, step), grows=True)

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Keep a picture, uint8 [H, W, 3] RGB."""
        board = self._board
        if board is not None:
            self.console.unwritten.attempt(board.path, lambda: board.image(name, image, step), grows=True)

    def close(self) -> None:
        """Write everything out."""
        for file in (self._metrics, self._board):
            if file is not None:
                self.console.unwritten.attempt(file.path, file.close, grows=True)


def describe_legend(losses: Mapping[str, float], *, clipped: bool) -> str:
    """What progress lines with these losses tell; parts of one's own have names that speak for themselves."""
    names = dict.fromkeys(re.sub(r"^loss_|_stage\d+$", "", name) for name in losses)
    parts = ", ".join(f"{name}: {_MEANING[name]}" for name in names if name in _MEANING)
    return (
        f"loss is the sum of what follows it, lower is better{f' ({parts})' if parts else ''}"
        "; lr: learning rate"
        + ("; grad: norm of the gradient before clipping" if clipped else "")
        + "; data: share of the time spent waiting for images; eta: time left"
    )


def describe_losses(losses: Mapping[str, float]) -> str:
    """``loss_mask`` 1.0 -> ``mask 1.000``; a cascade's stages together: ``box_cls 1.000/0.800/0.700``."""
    parts: dict[str, list[str]] = {}
    for name, value in losses.items():
        parts.setdefault(re.sub(r"^loss_|_stage\d+$", "", name), []).append(f"{value:.3f}")
    return " ".join(f"{name} {'/'.join(values)}" for name, values in parts.items())


def format_seconds(seconds: float) -> str:
    """``75`` -> ``1m15s``, ``7500`` -> ``2h05m``, ``200000`` -> ``2d07h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
