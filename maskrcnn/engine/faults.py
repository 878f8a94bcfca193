"""What goes wrong in the middle of training, and how it is known.

Errors of several kinds; weights and losses that are finite and yet ruined: a rate that is too high can leave
weights of 1e17.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from maskrcnn.data.file_names import shown
from maskrcnn.errors import UserError, few
from maskrcnn.structures import ImageInfo

#: Root mean squares of trained networks lie between 0.01 and 1; a hundredfold of that is ruin.
_LEAST, _GROWTH = 0.1, 100.0
#: The same without a beginning to compare with: what a resumed run begins with.
_ABSURD = 1000.0
#: Losses of detectors begin between 1 and 20.
_LOSS_GROWTH = 100.0


class NonFiniteError(UserError):
    """A loss or a gradient is NaN or infinite; the weights have not been touched by it."""


def name_images(infos: Iterable[ImageInfo]) -> str:
    """``image 7 (a.png), image 9 (b.png)``; the first 16."""
    return few((f"image {info.image_id} ({shown(info.file_name)})" for info in infos), 16)


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


class Soundness:
    """Compares weights with those at the beginning; it reads them where the caller asks, at checkpoints."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        """
        Args:
            parameters: what is trained, float, any device.
        """
        self._parameters = [p.detach() for p in parameters]
        self._beginning = root_mean_square(self._parameters)

    def ruined_from_the_start(self) -> str | None:
        """What is wrong with the weights that this process began with, as a phrase; None where nothing is."""
        if self._beginning <= _ABSURD:
            return None
        return f"the weights have a root mean square of {self._beginning:.1e}"

    def weights(self) -> str | None:
        """What is wrong with the weights now, as a phrase; None where nothing is.  Waits for the device."""
        now = root_mean_square(self._parameters)
        factor = now / max(self._beginning, _LEAST)
        if factor <= _GROWTH and now <= _ABSURD:
            return None
        beginning = f"{self._beginning:.2g} at the beginning"
        return f"the weights have grown from a root mean square of {beginning} to {now:.1e}"


class LossWatch:
    """Compares losses with the lowest so far."""

    def __init__(self) -> None:
        self._lowest = math.inf

    def growth(self, total: float) -> str | None:
        """What is wrong with a mean total loss, as a phrase; None where nothing is."""
        lowest, self._lowest = self._lowest, min(self._lowest, total)
        if not math.isfinite(lowest) or total <= _LOSS_GROWTH * max(1.0, lowest):
            return None
        return f"the loss has grown to {total:.3g} from {lowest:.3g}"


def root_mean_square(tensors: Sequence[Tensor]) -> float:
    """Over all elements of all of them; sums in double precision, so that 1e30 does not overflow."""
    count = sum(t.numel() for t in tensors)
    if not count:
        return 0.0
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64) for t in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms))) / math.sqrt(count)
