"""What becomes of a step: it is made, or given up before its update, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskrcnn.errors import UserError
from maskrcnn.structures import ImageInfo


class Wishes(NamedTuple):
    """What a rank asks of all ranks after a step: to stop, to write a checkpoint."""

    stop: bool = False
    save: bool = False


@dataclass(frozen=True)
class StepResult:
    """A step that was made.

    losses: name -> mean over passes and ranks.
    wishes: those of any rank that ``Step.queue`` gave.
    images: how many, over all ranks.
    grad_norm: before clipping.
    waiting: seconds that this rank waited for its batches.
    left_out: where its figures are not finite and its update was left out, a phrase for each of them.
    infos: the images of this rank.
    step: how many steps there were before.
    """

    losses: dict[str, float]
    wishes: Wishes
    images: int
    grad_norm: float
    waiting: float
    left_out: Sequence[str] = ()
    infos: Sequence[ImageInfo] = ()
    step: int = 0


@dataclass(eq=False)
class NotMadeError(Exception):
    """A step was given up before its update: weights, optimizer, rates and statistics are as before it.

    infos: the images that this rank had got.
    """

    infos: Sequence[ImageInfo]


@dataclass(eq=False)
class NoMemoryError(NotMadeError):
    """Memory ran out, and smaller pieces of the batch did not help, or could not be made.

    step: how many steps are whole.
    together: whether all ranks raise it at this step.
    loading: whether it was while a batch was loaded.
    """

    step: int
    together: bool = True
    loading: bool = False


@dataclass(eq=False)
class AbandonedError(NotMadeError):
    """A batch does not come, or a rank is gone; ``why`` is None where that is since all were told to stop."""

    why: UserError | None


@dataclass(eq=False)
class NotFiniteError(NotMadeError):
    """A loss, or the gradient, is not finite, on all ranks; ``what`` has a phrase for each.

    step: how many steps are whole; none after it changed anything.
    """

    what: list[str]
    step: int
