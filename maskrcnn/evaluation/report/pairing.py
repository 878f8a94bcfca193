"""Which detection finds which object: COCO's rule, at many thresholds and sizes at once.

In each image and class the detections choose one after the other, by falling score: each the object of the
highest IoU that is free, an object that counts before one that is ignored (a crowd, or one of another size).
A crowd can be chosen again and again (pycocotools' ``evaluateImg``).

Legend: A = area ranges (all, small, medium, large), T = IoU thresholds, C = detections that overlap an object
of their class by 0.5 or more; the others find nothing.  D, G as in ``overlaps``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.evaluation.report.overlaps import Flags, Floats, Integers, Overlaps, Pairs, ranks

#: COCO's: 0.50, 0.55 .. 0.95.
THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
#: COCO's, square pixels, both ends included: all, small, medium, large.
AREAS: Floats = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Pairing:
    """What was found.

    overlaps: of what.  cap: detections that count an image and class.
    rows: int64 [C], places among the detections, rising.
    chosen: int32 [A, T, C], the object that each has found; -1: none.
    skipped: bool [A, G], objects that do not count: crowds, and those of another size.
    outside: bool [A, D], detections of another size, which do not count as wrong.
    """

    overlaps: Overlaps
    cap: int
    rows: Integers
    chosen: npt.NDArray[np.int32]
    skipped: Flags
    outside: Flags

    def right(self, area: int, which: slice | int = slice(None)) -> Flags:
        """bool [T, C] (or [C] of one threshold), those that have found an object that counts."""
        chosen = self.chosen[area, which]
        return np.asarray((chosen >= 0) & ~self.skipped[area][chosen])

    def ignored(self, area: int, which: slice | int = slice(None)) -> Flags:
        """The same shape, those that have found one that does not count: neither right nor wrong."""
        chosen = self.chosen[area, which]
        return np.asarray((chosen >= 0) & self.skipped[area][chosen])

    def by_class(self) -> Iterator[tuple[int, Integers, Integers]]:
        """Each class with its detections within the cap by falling score, and places [C_k] of ``rows`` in it.

        Of one score they stand in the order of images, as pycocotools has it.
        """
        found = self.overlaps
        mine = np.flatnonzero((found.label >= 0) & (found.rank < self.cap))
        mine = mine[np.lexsort((-found.score[mine], found.label[mine]))]
        bounds = np.searchsorted(found.label[mine], np.arange(found.classes + 1))
        for k in range(found.classes):
            yield k, mine[bounds[k] : bounds[k + 1]], self.places[mine[bounds[k] : bounds[k + 1]]]

    @property
    def places(self) -> Integers:
        """int64 [D], each detection's place among ``rows``; -1 where it has none."""
        out = np.full(len(self.overlaps.score), -1, dtype=np.int64)
        out[self.rows] = np.arange(len(self.rows))
        return out

    def flags(self, area: int, threshold: int) -> tuple[Flags, Flags]:
        """bool [D] twice: right, and wrong; neither where ignored or beyond the cap."""
        found = self.overlaps
        right = np.zeros(len(found.score), dtype=np.bool_)
        spared = self.outside[area] | (found.label < 0) | (found.rank >= self.cap)
        right[self.rows] = self.right(area, threshold)
        spared[self.rows[self.ignored(area, threshold)]] = True
        return right, ~right & ~spared


def pair(found: Overlaps, cap: int, thresholds: Floats = THRESHOLDS, areas: Floats = AREAS) -> Pairing:
    """Let every detection within ``cap`` an image and class choose.

    Args:
        thresholds: float64 [T], rising, each 0.1 or more.  areas: float64 [A, 2], square pixels.
    """
    low, high = areas[:, :1], areas[:, 1:]
    skipped = found.crowd | (found.object_area < low) | (found.object_area > high)
    outside = (found.area < low) | (found.area > high)
    able = found.same_class & (found.pairs.iou >= thresholds[0]) & (found.rank < cap)[found.pairs.found]
    pairs = found.pairs.select(able)
    rows, place = np.unique(pairs.found, return_inverse=True)
    turn = ranks(found.image[rows], found.label[rows])  # so many of ``rows`` choose before each
    chosen = np.full((len(areas), len(thresholds), len(rows)), -1, dtype=np.int32)
    free = np.ones((len(areas), len(thresholds), len(found.crowd)), dtype=np.bool_)
    order = np.argsort(turn[place], kind="stable")
    bounds = np.searchsorted(turn[place][order], np.arange(turn.max(initial=-1) + 2))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        _choose(pairs, place, order[begin:end], thresholds, skipped, found.crowd, free, chosen)
    return Pairing(found, cap, rows, chosen, skipped, outside)


def _choose(
    pairs: Pairs,
    place: Integers,
    which: Integers,
    thresholds: Floats,
    skipped: Flags,
    crowd: Flags,
    free: Flags,
    chosen: npt.NDArray[np.int32],
) -> None:
    """Let one detection of each image and class choose, at all thresholds and sizes.

    which: its pairs.  free: bool [A, T, G], and chosen: [A, T, C], are written to.
    """
    wanted, iou = pairs.wanted[which], pairs.iou[which]
    starts = np.flatnonzero(np.diff(pairs.found[which], prepend=-1))
    segment = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(which)))
    open_ = (free[..., wanted] | crowd[wanted]) & (iou >= thresholds[:, None])
    place_of = np.arange(len(which))
    best = np.full((*open_.shape[:2], len(starts)), -1, dtype=np.int64)
    for counts in (True, False):  # objects that count come first
        able = open_ & ((~skipped[:, wanted] if counts else skipped[:, wanted])[:, None])
        value = np.where(able, iou, -1.0)
        top = np.maximum.reduceat(value, starts, axis=2)[..., segment]
        last = np.maximum.reduceat(np.where(able & (value == top), place_of, -1), starts, axis=2)
        best = np.where(best < 0, last, best)
    a, t, s = np.nonzero(best >= 0)
    pick = best[a, t, s]
    chosen[a, t, place[which[starts]][s]] = wanted[pick]
    free[a, t, wanted[pick]] = False
