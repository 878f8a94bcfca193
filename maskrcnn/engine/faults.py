"""Sentences for what goes wrong in the middle of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from maskrcnn.data.file_names import shown
from maskrcnn.errors import UserError, few
from maskrcnn.structures import ImageInfo


class NonFiniteError(UserError):
    """A loss or a gradient is NaN or infinite; the weights have not been touched by it."""


def name_images(infos: Iterable[ImageInfo], limit: int = 16) -> str:
    """``image 7 (a.png), image 9 (b.png)``."""
    return few((f"image {info.image_id} ({shown(info.file_name)})" for info in infos), limit)


def non_finite_losses(losses: Mapping[str, float]) -> list[str]:
    """``loss_mask is nan`` for each loss that is not a finite number."""
    return [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]


def non_finite_message(step: int, what: Sequence[str], images: str, lr: float, safe: str) -> str:
    """The sentence of :class:`NonFiniteError`.

    Args:
        step: the optimizer step that was not made, from 1.
        what: which quantities, and what they are.
        images: which images the step saw.
        lr: the step's learning rate.
        safe: which checkpoint is kept.
    """
    return (
        f"step {step}: {'; '.join(what)}, on {images}; stopped before the optimizer step, {safe}. "
        f"Look at these images and their annotations; if they are sound, the learning rate ({lr:.3g}) is"
        " too high or the warm-up too short: lower solver.optimizer.lr, raise solver.schedule.warmup_steps,"
        " or set solver.clip_grad_norm"
    )


def ruined_message(step: int, what: str, sound: Path | None) -> str:
    """The sentence for weights that are finite, but grown beyond use.

    Args:
        step: finished steps.
        what: the phrase of :class:`maskrcnn.engine.soundness.Soundness`.
        sound: the newest checkpoint from before, if there is one.
    """
    kept = "no checkpoint from before is there" if sound is None else f"{sound} is from before and is kept"
    weights = "" if sound is None else f" and --set weights={sound}"
    return (
        f"step {step}: {what}: they are ruined in all likelihood, and so is this checkpoint; {kept}. Stop,"
        f" and begin a new run with a lower --set solver.optimizer.lr{weights}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text or isinstance(error, MemoryError)


@contextmanager
def out_of_memory_is_told(sentence: str) -> Iterator[None]:
    """Within it (``with``, or as a decorator) a failed allocation becomes a :class:`UserError`.

    Raises:
        UserError: ``sentence``, where memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, UserError) or not is_out_of_memory(error):
            raise
        raise UserError(sentence) from error


def is_lost_rank(error: BaseException) -> bool:
    """Whether a sum over the processes failed because one of them is gone."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("connection closed by peer", "connection reset by peer", "nccl", "gloo")
    )


class LostRankError(UserError):
    """Another process of the run is gone."""


def out_of_memory_message(step: int, images: str, safe: str) -> str:
    """What to change when a step does not fit into memory."""
    return (
        f"step {step}: out of memory on {images}; {safe}. Raise solver.accumulate (the same images a step in"
        " up to solver.batch_size parts; the result is close but not the same, since each part draws its own"
        " samples), set solver.precision to bfloat16, or use smaller images (data.train_transforms)"
    )
