"""What goes wrong in the middle of training: kinds of errors, and how they are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from maskrcnn.data.file_names import shown
from maskrcnn.errors import UserError, few
from maskrcnn.structures import ImageInfo


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
