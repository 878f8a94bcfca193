"""What ``data.cache`` does: the data sets of a training get a place for decoded images, if there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.image_cache import LEFT_FREE, DiskCache, MemoryCache, memory_needed, room
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.memory import free_memory
from maskrcnn.errors import ConfigError, OutputError, UserError
from maskrcnn.files import reason
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.room import in_words
from maskrcnn.run.training import CACHES
from maskrcnn.weights.published import home

#: Share of the free memory that images may take; the rest is the training's.
_SHARE = 0.8
_Tell = Callable[[str], None]


@CACHES.register("ram")
def keep_in_memory(recipe: Recipe, data: setup.Data, ranks: Ranks, tell: _Tell) -> None:
    """Keep the decoded images in memory that all processes of this machine share.

    Raises:
        UserError: they do not fit, or this machine has no such memory.
        ConfigError: a data set reads its images in a way of its own.
    """
    sets, channels = _sets(recipe, data), recipe.data.channels

    def fits() -> int:
        need = sum(int(needed(recipe, part).sum()) for part in sets)
        free = free_memory(cuda=False)
        if need > _SHARE * free:
            raise UserError(
                f"data.cache is ram, and the decoded images take {in_words(need)} of the {in_words(free)} of"
                f" memory that are free, of which at most {_SHARE:.0%} are taken; set it to disk, or to none"
            )
        return need

    need = setup.one_first(ranks, fits)
    try:
        mine = [MemoryCache(p.sizes, channels, p.bytes_each) for p in sets if ranks.local_rank == 0]
    except (OSError, AttributeError) as error:
        raise _no_memory(error) from None
    # The processes of a machine have the same rank but for their place on it.
    machine = ranks.rank - ranks.local_rank
    told = ranks.share(ranks.gather((machine, [cache.handle for cache in mine])))
    handles = next(found for place, found in told if place == machine and found)
    try:
        caches = mine or [
            MemoryCache(part.sizes, channels, part.bytes_each, handle)
            for part, handle in zip(sets, handles, strict=True)
        ]
    except OSError as error:
        raise _no_memory(error) from None
    for part, cache in zip(sets, caches, strict=True):
        part.cache = cache
    ranks.barrier()  # who made the memory may end before another has opened it
    tell(f"decoded images are kept in memory: {in_words(need)} once all were read")


@CACHES.register("disk")
def keep_on_disk(recipe: Recipe, data: setup.Data, ranks: Ranks, tell: _Tell) -> None:
    """Keep the decoded images as files below ``$MASKRCNN_HOME/images``, as many as fit.

    Raises:
        OutputError: nothing can be written there.
        ConfigError: a data set reads its images in a way of its own.
    """
    sets = _sets(recipe, data)
    folder = home() / "images"
    for part in sets:
        part.cache = DiskCache(folder, part.decoding)

    def look() -> tuple[int, int, int]:
        folder.mkdir(parents=True, exist_ok=True)
        missing = np.concatenate([needed(recipe, part)[part.cache.missing(part.places())] for part in sets])
        return sum(len(part) for part in sets), len(missing), int(missing.sum())

    try:
        total, count, need = setup.one_first(ranks, look)
        free = room(folder)
    except OSError as error:
        why = reason(error, folder)
        raise OutputError(
            f"{folder}: could not be written: {why}; set MASKRCNN_HOME to another folder, or data.cache to"
            " none"
        ) from None
    less = ""
    if need > free:
        less = f", of which {in_words(free)} are kept: {LEFT_FREE:.0%} of the disk stay free"
    tell(
        f"decoded images are kept in {folder}: {total - count} of {total} are there, the others take"
        f" {in_words(need)}{less}"
    )


def needed(recipe: Recipe, part: Any) -> npt.NDArray[np.int64]:
    """Bytes of each image of a data set that has a cache, decoded."""
    return memory_needed(part.sizes, recipe.data.channels * part.bytes_each)


def _sets(recipe: Recipe, data: setup.Data) -> list[Any]:
    """The data sets of a training.

    Raises:
        ConfigError: one of them cannot use a cache.
    """
    sets: list[Any] = [part for part in (data.train, data.val) if part is not None]
    for part in sets:
        if not hasattr(part, "cache"):
            raise ConfigError(
                f"data.cache is {recipe.data.cache}, and {type(part).__name__} reads its images in a way of"
                " its own; set it to none, or make the data set a CocoDataset"
            )
    return sets


def _no_memory(error: Exception) -> UserError:
    return UserError(
        f"data.cache is ram, and this machine has no memory that its processes can share"
        f" ({getattr(error, 'strerror', None) or error}); set it to disk, or to none"
    )
