"""What was done since the last log."""

from __future__ import annotations

import time
from collections import defaultdict

from maskrcnn.engine.events import TrainingProgress
from maskrcnn.engine.step import StepResult


class Tally:
    """Sums over steps, from its making on."""

    def __init__(self) -> None:
        self.steps = 0
        self._losses: dict[str, float] = defaultdict(float)
        self._images = 0
        self._waiting = 0.0
        self._began = time.perf_counter()
        self._grad_norm: float | None = None

    def add(self, done: StepResult) -> None:
        """Count one step."""
        self.steps += 1
        self._images += done.images
        self._waiting += done.waiting
        self._grad_norm = done.grad_norm
        for name, value in done.losses.items():
            self._losses[name] += value

    def leave_out(self, seconds: float) -> None:
        """Time that was spent on something else."""
        self._began += seconds

    def progress(self, step: int, total: int, lr: float, memory: int) -> TrainingProgress:
        """What was counted, at least one step; the arguments are its fields of those names."""
        return TrainingProgress(
            step=step,
            total=total,
            losses={name: value / self.steps for name, value in self._losses.items()},
            lr=lr,
            steps=self.steps,
            images=self._images,
            seconds=time.perf_counter() - self._began,
            waiting=self._waiting,
            grad_norm=self._grad_norm,
            memory=memory,
        )
