"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

from maskrcnn.config import Config, Range, Registry
from maskrcnn.config.ranges import Count, Share


class ScheduleConfig(Protocol):
    """What fills the slot ``solver.schedule``."""

    def factor(self, step: int, total_steps: int) -> float:
        """What the base learning rate is multiplied with in optimizer step ``step`` (from 0)."""
        ...


#: The slot ``solver.schedule``.
SCHEDULES: Registry[ScheduleConfig] = Registry("schedule")


def warm_up(step: int, steps: int, start: float) -> float:
    """Linear from ``start`` at step 0 to 1 at step ``steps`` (Goyal et al. 2017, section 2.2)."""
    if step >= steps:
        return 1.0
    return start + (1.0 - start) * step / steps


@SCHEDULES.register("multistep")
@dataclass(frozen=True, kw_only=True)
class MultiStepConfig(Config):
    """Drop the rate by ``gamma`` at each milestone: the published Mask R-CNN schedule."""

    #: Steps at which the rate drops; those past the end of training are never reached.  Default: none.
    milestones: tuple[Count, ...] = ()
    #: Factor of each drop, in (0, 1].  Default 0.1 (Mask R-CNN, section 3.1).
    gamma: Annotated[float, Range(above=0, most=1)] = 0.1
    #: Steps of linear warm-up, >= 0.  Default 1000 (Detectron2's WARMUP_ITERS).
    warmup_steps: Annotated[int, Range(0)] = 1000
    #: The rate's factor at step 0, in [0, 1].  Default 0.001 (Detectron2's WARMUP_FACTOR).
    warmup_factor: Share = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be rising, got {list(self.milestones)}")

    def factor(self, step: int, total_steps: int) -> float:
        """See :class:`ScheduleConfig`."""
        drops = sum(step >= milestone for milestone in self.milestones)
        return float(self.gamma**drops) * warm_up(step, self.warmup_steps, self.warmup_factor)


@SCHEDULES.register("cosine")
@dataclass(frozen=True, kw_only=True)
class CosineConfig(Config):
    """Half a cosine from 1 at step 0 to ``final_factor`` at the end (Loshchilov & Hutter 2017, eq. 5)."""

    #: Steps of linear warm-up, >= 0; multiplied with the cosine.  Default 1000.
    warmup_steps: Annotated[int, Range(0)] = 1000
    #: At most this share of all steps is warm-up, in [0, 1], so that a shorter training warms up for less.
    #: Default 1.
    warmup_share: Share = 1.0
    #: The rate's factor at step 0, in [0, 1].  Default 0.001 (Detectron2's WARMUP_FACTOR).
    warmup_factor: Share = 0.001
    #: What is left of the rate after the last step, in [0, 1].  Default 0.
    final_factor: Share = 0.0

    def factor(self, step: int, total_steps: int) -> float:
        """See :class:`ScheduleConfig`."""
        done = min(1.0, step / max(1, total_steps))
        cosine = 0.5 * (1.0 + math.cos(math.pi * done))
        value = self.final_factor + (1.0 - self.final_factor) * cosine
        return value * warm_up(step, self.warms_up_for(total_steps), self.warmup_factor)

    def warms_up_for(self, total_steps: int) -> int:
        """Steps of warm-up in a training of so many."""
        return min(self.warmup_steps, int(self.warmup_share * total_steps))
