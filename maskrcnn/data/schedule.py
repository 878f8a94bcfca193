"""Which images make up each training batch: a pure function of (seed, micro-step, rank, world size).

So resuming needs no state but the step number, and any batch can be made again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskrcnn.structures.ground_truth import GroundTruth
from maskrcnn.structures.seeds import derive_seed


class Draw(NamedTuple):
    """One image of a batch.

    epoch, position: its place in the epoch's permutation, which seeds its augmentation.
    image: the image's index in the data set.
    """

    epoch: int
    position: int
    image: int


@dataclass(frozen=True)
class Repeats:
    """How often an epoch shows images, on average, each at least 1.

    classes: float64 [K], those of a class.  images: float64 [N].
    """

    classes: npt.NDArray[np.float64]
    images: npt.NDArray[np.float64]


def repeat_factors(
    truth: GroundTruth, image_ids: Sequence[int] | npt.NDArray[np.int64], threshold: float
) -> Repeats:
    """Repeat factor sampling (Gupta et al. 2019, LVIS, appendix B.2): rare classes are shown more often.

    A class that is in a share f of the N images has the factor ``max(1, sqrt(threshold / f))``, an image the
    highest of its classes, 1 without any.  Crowd regions do not count.

    Args:
        truth: of these images, and perhaps of others.
        image_ids: N, of the images to show.
        threshold: the share below which a class is rare.
    """
    count = len(truth.category_ids)
    shown = np.array([truth.image_places[i] for i in map(int, image_ids)], dtype=np.int64)
    is_shown = np.isin(np.arange(len(truth.image_ids)), shown)
    kept = ~truth.crowds & is_shown[truth.images]
    images, labels = np.divmod(np.unique(truth.images[kept] * count + truth.labels[kept]), count)
    share = np.bincount(labels, minlength=count) / max(len(shown), 1)
    classes = np.ones(count)
    classes[share > 0] = np.maximum(1.0, np.sqrt(threshold / share[share > 0]))
    factors = np.ones(len(truth.image_ids))
    np.maximum.at(factors, images, classes[labels])
    return Repeats(classes, factors[shown])


class TrainSchedule:
    """Batches for all ranks and all time.

    Each epoch is a new permutation of the N images.  It is cut into batches that all ranks share, of
    ``images_per_rank`` for each; with ``group`` wide and tall images stay apart, so that padding them to one
    size wastes little (at most one batch an epoch mixes the leftovers).  The batches are shuffled; the last
    few images that fill none are left out of that epoch.  A data set smaller than one batch is permuted
    several times an epoch.  So any number of ranks takes the images that one with the whole batch does.

    With ``repeats`` an epoch shows an image as often as its factor says, rounded up or down at random: up
    with the probability of the fraction, so that the mean is the factor (Gupta et al. 2019, appendix B.2).
    How an epoch rounds is a function of (seed, epoch), and so is its length.

    Args:
        sizes: int [N, 2], (height, width) of each image.
        images_per_rank: batch size of a micro-step on each rank.
        world_size: number of ranks.
        seed: of the permutations.
        group: keep wide and tall images apart.
        repeats: float64 [N], each at least 1; None: every image once an epoch.
        shared: False, as trainings of before were: batches of ``images_per_rank`` are shuffled and dealt to
            the ranks in turn.
    """

    def __init__(
        self,
        sizes: npt.NDArray[np.int32],
        *,
        images_per_rank: int,
        world_size: int,
        seed: int,
        group: bool = True,
        repeats: npt.NDArray[np.float64] | None = None,
        shared: bool = True,
    ) -> None:
        if len(sizes) < 1 or images_per_rank < 1 or world_size < 1:
            raise ValueError("a schedule needs at least one image, one image a rank, and one rank")
        self.images = len(sizes)
        self.images_per_rank = images_per_rank
        self.world_size = world_size
        #: Ranks that share a batch of :meth:`_epoch`.
        self._sharing = world_size if shared else 1
        self.seed = seed
        self._tall = sizes[:, 0] > sizes[:, 1] if group else np.zeros(len(sizes), dtype=bool)
        self._repeats = -(-images_per_rank * world_size // self.images)
        self._factors = repeats
        #: Micro-steps an epoch, the same for every rank, and for every epoch that repeats no image.
        self.epoch_length = self._length(self._repeats * self.images)
        self._starts = [0]
        self._cached: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def batch(self, micro_step: int, rank: int) -> list[Draw]:
        """The images of rank ``rank`` at ``micro_step`` (counted from 0 over the whole training)."""
        epoch, step = self._place(micro_step)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, *self._epoch(epoch))
        _, order, batches = self._cached
        place, part = divmod(step * self.world_size + rank, self._sharing)
        first = part * self.images_per_rank
        positions = batches[place, first : first + self.images_per_rank].tolist()
        return [Draw(epoch, position, int(order[position])) for position in positions]

    def epoch_draws(self, epoch: int) -> list[Draw]:
        """All images of an epoch (from 0) that reach a rank, in the order of the batches."""
        order, batches = self._epoch(epoch)
        dealt = batches[: self._length(len(order)) * self.world_size // self._sharing]
        return [Draw(epoch, position, int(order[position])) for position in dealt.reshape(-1).tolist()]

    def _place(self, micro_step: int) -> tuple[int, int]:
        """The epoch, and the micro-step in it."""
        if self._factors is None:
            return divmod(micro_step, self.epoch_length)
        while self._starts[-1] <= micro_step:  # the first micro-steps of all epochs up to there, made once
            length = self._length(int(self._counts(len(self._starts) - 1).sum()))
            self._starts.append(self._starts[-1] + length)
        epoch = bisect_right(self._starts, micro_step) - 1
        return epoch, micro_step - self._starts[epoch]

    def _length(self, draws: int) -> int:
        return draws // self.images_per_rank // self.world_size

    def _counts(self, epoch: int) -> npt.NDArray[np.int64]:
        """How often each permutation of the epoch holds each image [permutations, N]."""
        shape = (self._repeats, self.images)
        if self._factors is None:
            return np.ones(shape, dtype=np.int64)
        whole = np.floor(self._factors)
        rng = np.random.Generator(np.random.PCG64(derive_seed("repeats", self.seed, epoch)))
        return (whole + (rng.random(shape) < self._factors - whole)).astype(np.int64)

    def _epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The epoch's order of images, and its batches as positions in that order [batches, images]."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        # Sorting random numbers: unlike rng.permutation, not free to change between NumPy versions.
        images = np.arange(self.images)
        pools = [np.repeat(images, counts) for counts in self._counts(epoch)]
        order = np.concatenate([pool[np.argsort(rng.random(len(pool)))] for pool in pools])
        size = self.images_per_rank * self._sharing
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
