"""Which images make up each training batch: a pure function of (seed, micro-step, rank, world size).

So resuming needs no state but the step number, and any batch can be made again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Draw(NamedTuple):
    """One image of a batch.

    epoch, position: its place in the epoch's permutation, which seeds its augmentation.
    image: the image's index in the data set.
    """

    epoch: int
    position: int
    image: int


class TrainSchedule:
    """Batches for all ranks and all time.

    Each epoch is a new permutation of the N images.  It is cut into batches of ``images_per_rank``; with
    ``group`` wide and tall images stay apart, so that padding them to one size wastes little (at most one
    batch an epoch mixes the leftovers).  The batches are shuffled and dealt to the ranks in turn; the last
    few images that fill no round of batches are left out of that epoch.  A data set smaller than one round
    is permuted several times an epoch.

    Args:
        sizes: int [N, 2], (height, width) of each image.
        images_per_rank: batch size of a micro-step on each rank.
        world_size: number of ranks.
        seed: of the permutations.
        group: keep wide and tall images apart.
    """

    def __init__(
        self,
        sizes: npt.NDArray[np.int32],
        *,
        images_per_rank: int,
        world_size: int,
        seed: int,
        group: bool = True,
    ) -> None:
        if len(sizes) < 1 or images_per_rank < 1 or world_size < 1:
            raise ValueError("a schedule needs at least one image, one image a rank, and one rank")
        self.images = len(sizes)
        self.images_per_rank = images_per_rank
        self.world_size = world_size
        self.seed = seed
        self._tall = sizes[:, 0] > sizes[:, 1] if group else np.zeros(len(sizes), dtype=bool)
        self._repeats = -(-images_per_rank * world_size // self.images)
        batches = self._repeats * self.images // images_per_rank
        #: Micro-steps an epoch, the same for every epoch and rank.
        self.epoch_length = batches // world_size
        self._cached: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def batch(self, micro_step: int, rank: int) -> list[Draw]:
        """The images of rank ``rank`` at ``micro_step`` (counted from 0 over the whole training)."""
        epoch, step = divmod(micro_step, self.epoch_length)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, *self._epoch(epoch))
        _, order, batches = self._cached
        positions = batches[step * self.world_size + rank].tolist()
        return [Draw(epoch, position, int(order[position])) for position in positions]

    def _epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The epoch's order of images, and its batches as positions in that order [batches, images]."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        # Sorting random numbers: unlike rng.permutation, not free to change between NumPy versions.
        order = np.concatenate([np.argsort(rng.random(self.images)) for _ in range(self._repeats)])
        size = self.images_per_rank
        tall = self._tall[order]
        full, left = [], []
        for positions in (np.flatnonzero(~tall), np.flatnonzero(tall)):
            cut = len(positions) // size * size
            full.append(positions[:cut])
            left.append(positions[cut:])
        rest = np.sort(np.concatenate(left))
        full.append(rest[: len(rest) // size * size])
        batches = np.concatenate(full).reshape(-1, size)
        return order, batches[np.argsort(rng.random(len(batches)))]
