"""A run of so many hours: how many steps that makes is decided once, by the time of its first steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.trainer import BUDGETS
from maskrcnn.errors import plural

#: Steps whose time is not counted (caches, allocator, a compiler), and those that are measured after them.
SKIPPED, MEASURED = 10, 50


@BUDGETS.register("hours")
class TimeBudget:
    """Hours for the optimizer steps of a run, all its calls together; evaluations come on top.

    Until it is decided the schedule is that of ``planned`` steps.  From then on what is left of it is
    stretched evenly over the steps that are left, so that the rate neither jumps nor ends early.

    Args:
        hours: > 0.
        planned: steps that the schedule is written for (``solver.steps``).
        ranks: the processes; rank 0's clock decides for all.
        clock: seconds.
    """

    def __init__(
        self, hours: float, planned: int, ranks: Ranks, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.hours, self.planned = hours, planned
        self._ranks, self._clock = ranks, clock
        #: How many steps there are, None until that is decided; and after which step it was.
        self.steps: int | None = None
        self._after = 0
        self._seconds = 0.0
        self._window = (0, 0)
        self._began = 0.0

    def begin(self, step: int) -> None:
        """A call goes on after ``step``: what an earlier one measured and did not finish is measured anew."""
        end = max(step + 1, min(step + SKIPPED + MEASURED, self.planned - 1))
        first = step + SKIPPED
        self._window = (first if first < end else step, end)
        self._began = self._clock()

    def due(self, step: int) -> bool:
        """Whether the device has to be done with ``step`` steps for :meth:`take`."""
        return self.steps is None and step in self._window

    def take(self, step: int) -> int | None:
        """Look at the clock after ``step``, on all ranks; returns how many steps there are, where that is
        decided.
        """
        first, end = self._window
        if step == first:
            self._began = self._clock()
        if step != end:
            return None
        self._seconds = self._ranks.share((self._clock() - self._began) / (end - first))
        self._after, self.steps = step, self._count(step)
        return self.steps

    def leave_out(self, seconds: float) -> None:
        """Time that was spent on something else than steps."""
        self._began += seconds

    def place(self, step: int) -> int:
        """Where in the schedule of ``planned`` steps the step after ``step`` others is."""
        if self.steps is None or step <= self._after or self.steps <= self._after:
            return step
        left, planned = self.steps - self._after, self.planned - self._after
        return self._after + (step - self._after) * planned // left

    def told(self) -> str:
        """The decision as a sentence."""
        steps = plural(self.steps or 0, "step")
        return (
            f"{steps}: decided after step {self._after} by {self._seconds:.3g} s a step and"
            f" {self.hours:g} hours (train.hours); the schedule of {plural(self.planned, 'step')} is"
            " stretched to them"
        )

    def state(self) -> dict[str, Any]:
        """What is decided; empty before that."""
        if self.steps is None:
            return {}
        return {"steps": self.steps, "after": self._after, "seconds": self._seconds, "hours": self.hours}

    def load(self, state: Mapping[str, Any]) -> None:
        """Keep to what was decided; for other hours, by the time of a step that was measured then."""
        self.steps, self._after = int(state["steps"]), int(state["after"])
        self._seconds = float(state["seconds"])
        if state["hours"] != self.hours:
            self.steps = self._count(self._after)

    def _count(self, step: int) -> int:
        return max(step, int(self.hours * 3600 / max(self._seconds, 1e-9)))
