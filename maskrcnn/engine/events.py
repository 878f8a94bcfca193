"""What is seen of a run while it runs: progress lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.engine.board import Board
from maskrcnn.engine.console import Console
from maskrcnn.engine.metrics_file import MetricsFile
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


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """The state of training at a log step.

    step: finished optimizer steps; total: how many there will be.
    losses: name -> mean since the last log, over steps and ranks.
    lr: learning rate of the last step.
    steps, images: how many since the last log; images over all ranks.
    seconds: wall time since the last log; waiting: the part of it this rank waited for data.
    grad_norm: before clipping, of the last step; None where nothing is clipped.
    memory: bytes, see ``engine.memory.memory_in_use``.
    """

    step: int
    total: int
    losses: Mapping[str, float]
    lr: float
    steps: int
    images: int
    seconds: float
    waiting: float
    grad_norm: float | None
    memory: int


class Events:
    """Progress lines, and ``metrics.jsonl`` and TensorBoard files in the run folder; on rank 0 alone.

    What cannot be written goes to ``console.unwritten``.
    """

    def __init__(
        self,
        folder: Path,
        console: Console,
        *,
        start_step: int = 0,
        tensorboard: bool = True,
        epoch_images: int | None = None,
    ) -> None:
        """
        Args:
            folder: the run folder; exists.
            console: where lines go.
            start_step: the step training goes on from; later records are dropped.
            tensorboard: also write ``folder/tensorboard``; a missing package is a warning.
            epoch_images: how many make an epoch, for progress lines; None: they do not tell epochs.

        Raises:
            OutputError: an earlier ``metrics.jsonl`` cannot be shortened to ``start_step``.
        """
        self._console = console
        self._unwritten = console.unwritten
        try:
            self._metrics = MetricsFile(folder / "metrics.jsonl", start_step)
        except OSError as error:
            raise unwritten(folder / "metrics.jsonl", error) from None
        self._board: Board | None = None
        self._rate: float | None = None
        self._told_data_bound = False
        self._epoch_images = epoch_images
        self._told_legend = False
        if tensorboard:
            try:
                self._board = Board(folder / "tensorboard", start_step + 1)
            except ImportError:
                console.warn("TensorBoard logs are off: the package 'tensorboard' is not installed")

    def progress(self, now: TrainingProgress) -> None:
        """Show and keep one log step; before the first, what the parts of a line mean."""
        if not self._told_legend:
            self._told_legend = True
            self._console.line(describe_legend(now.losses, clipped=now.grad_norm is not None))
        total_loss = sum(now.losses.values())
        rate = now.images / max(now.seconds, 1e-9)
        waiting = now.waiting / max(now.seconds, 1e-9)
        self._console.line(self._describe(now, total_loss, rate, waiting))
        values: dict[str, Any] = {
            "loss": total_loss,
            **now.losses,
            "lr": now.lr,
            "images_per_second": rate,
            "data_wait": waiting,
            "memory_bytes": now.memory,
        }
        if now.grad_norm is not None:
            values["grad_norm"] = now.grad_norm
        self._write(now.step, "train", values)
        for name, value in values.items():
            group = "loss" if name.startswith("loss") else "train"
            self._scalar(f"{group}/{name.removeprefix('loss_')}", value, now.step)
        if waiting > _DATA_BOUND and now.step > 20 and not self._told_data_bound:
            self._told_data_bound = True
            self._console.warn(
                f"{waiting:.0%} of the time is spent waiting for data;"
                " raise data.workers, or use smaller images"
            )

    def _describe(self, now: TrainingProgress, total_loss: float, rate: float, waiting: float) -> str:
        step_seconds = now.seconds / max(1, now.steps)
        # Exponential mean for the ETA: one slow step must not double it.
        self._rate = step_seconds if self._rate is None else 0.7 * self._rate + 0.3 * step_seconds
        eta = format_seconds(self._rate * (now.total - now.step))
        parts = describe_losses(now.losses)
        clip = "" if now.grad_norm is None else f"  grad {now.grad_norm:.2f}"
        return (
            f"step {now.step}/{now.total}  {self._describe_epoch(now)}loss {total_loss:.3f} ({parts})"
            f"  lr {now.lr:.2e}{clip}  {rate:.2f} img/s  data {waiting:.0%}"
            f"  mem {now.memory / 2**30:.2f} GiB  eta {eta}"
        )

    def _describe_epoch(self, now: TrainingProgress) -> str:
        """``epoch 0.30/6.75  ``: images seen by all ranks, in training sets."""
        if not self._epoch_images or not now.steps:
            return ""
        per_step = now.images / now.steps / self._epoch_images
        return f"epoch {now.step * per_step:.2f}/{now.total * per_step:.2f}  "

    def evaluation(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Keep the figures of an evaluation."""
        self._write(step, "eval", {**metrics, "seconds": seconds})
        for name, value in metrics.items():
            self._scalar(f"eval/{name}", value, step)

    def _write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        file = self._metrics
        self._unwritten.attempt(file.path, lambda: file.write(step, kind, values), grows=True)

    def _scalar(self, name: str, value: float, step: int) -> None:
        board = self._board
        if board is not None:
            self._unwritten.attempt(board.path, lambda: board.scalar(name, value, step), grows=True)

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Keep a picture, uint8 [H, W, 3] RGB."""
        board = self._board
        if board is not None:
            self._unwritten.attempt(board.path, lambda: board.image(name, image, step), grows=True)

    def close(self) -> None:
        """Write everything out."""
        for file in (self._metrics, self._board):
            if file is not None:
                self._unwritten.attempt(file.path, file.close, grows=True)


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
