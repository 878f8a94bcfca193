"""Average precision and recall from what was paired: as COCO has them, and of resampled images.

Legend: A, T, C, D, G, K as in ``pairing``; R = COCO's 101 levels of recall; B = resamples, N = images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.evaluation.eval_result import RECALLS
from maskrcnn.evaluation.report.overlaps import Flags, Floats, Integers
from maskrcnn.evaluation.report.pairing import Pairing

#: Numbers that a block of resamples holds at once; bounds memory.
_AT_ONCE = 1 << 22


def precisions(pairing: Pairing, area: int = 0) -> Floats:
    """float64 [T, R, K], pycocotools' ``precision`` to the bit; NaN for a class without objects."""
    count, levels = pairing.chosen.shape[1], len(RECALLS)
    out = np.full((count, levels, pairing.overlaps.classes), np.nan)
    totals = objects(pairing, area)
    right, ignored = pairing.right(area), pairing.ignored(area)
    for k, mine, places in pairing.by_class():
        if not totals[k]:
            continue
        able = places >= 0
        tp, spared = np.zeros((2, count, len(mine)), dtype=np.bool_)
        tp[:, able] = right[:, places[able]]
        spared[:] = pairing.outside[area][mine] & ~tp
        spared[:, able] |= ignored[:, places[able]]
        out[:, :, k] = interpolated(tp, ~tp & ~spared, int(totals[k]))
    return out


def objects(pairing: Pairing, area: int = 0) -> Integers:
    """int64 [K], objects that count."""
    labels = pairing.overlaps.object_label[~pairing.skipped[area]]
    return np.bincount(labels, minlength=pairing.overlaps.classes)


def interpolated(right: Flags, wrong: Flags, total: int) -> Floats:
    """Precision [T, R] from [T, D] flags by falling score: the best at each recall or more, 0 beyond."""
    tp, fp = np.cumsum(right, axis=1, dtype=np.float64), np.cumsum(wrong, axis=1, dtype=np.float64)
    precision = tp / (fp + tp + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    out = np.zeros((len(right), len(RECALLS)))
    for t in range(len(right)):
        at = np.searchsorted(tp[t] / total, RECALLS, side="left")
        reached = at < envelope.shape[1]
        out[t, reached] = envelope[t, at[reached]]
    return out


def mean(values: Floats) -> float | None:
    """Of the defined ones; None where there are none."""
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if defined.size else None


def resamples(images: int, count: int, seed: int) -> npt.NDArray[np.int32]:
    """int32 [B, N]: how often each image is drawn in each of ``count`` samples of as many images."""
    share = np.full(images, 1 / max(images, 1))
    drawn = np.random.default_rng(seed).multinomial(images, share, size=count)
    return drawn.astype(np.int32).reshape(count, images)


@dataclass(frozen=True, eq=False)
class Samples:
    """Figures of resampled images: NaN where a sample has no object of the class that counts.

    precision: float64 [A, B, T, K], AP.  recall: the same shape, the recall of all detections.
    """

    precision: Floats
    recall: Floats


def sampled(
    pairing: Pairing, weights: npt.NDArray[np.int32], progress: Callable[[float], None] = lambda share: None
) -> Samples:
    """AP and recall of each class, threshold and size, with each image counted ``weights`` [B, N] times.

    Args:
        progress: told after each class which share is done.
    """
    areas, thresholds = pairing.chosen.shape[:2]
    shape = (areas, len(weights), thresholds, pairing.overlaps.classes)
    precision, recall = np.full((2, *shape), np.nan)
    flags = [(pairing.right(a), pairing.ignored(a)) for a in range(areas)]
    found = pairing.overlaps
    for k, mine, places in pairing.by_class():
        able = np.flatnonzero(places >= 0)
        step = min(max(_AT_ONCE // max(len(mine), 1), 1), 64)
        for a, (right, ignored) in enumerate(flags):
            owned = found.object_image[~pairing.skipped[a] & (found.object_label == k)]
            if not len(owned):
                continue
            totals = weights @ np.bincount(owned, minlength=weights.shape[1]).astype(np.int32)
            one = _OneClass(
                found.image[mine],
                ~pairing.outside[a][mine],
                able,
                right[:, places[able]],
                ignored[:, places[able]],
            )
            for b in range(0, len(weights), step):
                part = slice(b, b + step)
                one.fill(weights[part], totals[part], precision[a, part, :, k], recall[a, part, :, k])
        progress((k + 1) / found.classes)
    return Samples(precision, recall)


@dataclass(frozen=True, eq=False)
class _OneClass:
    """The detections of one class, by falling score, as one size sees them.

    image: int64 [D_k].  inside: bool [D_k], of that size.  able: int64 [C_k], places of those that have a
    chance; right, ignored: bool [T, C_k], what became of them.
    """

    image: Integers
    inside: Flags
    able: Integers
    right: Flags
    ignored: Flags

    def fill(
        self,
        times: npt.NDArray[np.int32],
        totals: npt.NDArray[np.int32],
        precision: Floats,
        recall: Floats,
    ) -> None:
        """Write AP and recall [b, T] of the images drawn ``times`` [b, N], with ``totals`` [b] objects.

        Precision is highest just after a right detection, so only those are looked at: what counts up to
        there are all inside, and what the flags of the ``able`` change of that.
        """
        mine, inside = times.take(self.image[self.able], axis=1), np.flatnonzero(self.inside)
        among = np.cumsum(self.inside)[self.able]  # how many inside stand up to each
        counts = np.zeros((len(times), len(inside) + 1), dtype=np.int32)
        np.cumsum(times.take(self.image[inside], axis=1), axis=1, out=counts[:, 1:])
        counts = counts.take(among, axis=1)
        own = self.inside[self.able]
        change = (self.right & ~own).astype(np.int32) - (self.ignored & own).astype(np.int32)
        whole, reach = np.maximum(totals, 1), _reached(np.maximum(totals, 1))
        base = (np.arange(len(times), dtype=np.int32) * reach.shape[1])[:, None]
        for t in range(len(self.right)):
            at = np.flatnonzero(self.right[t])
            if not len(at):
                precision[:, t] = recall[:, t] = 0.0
                continue
            tp = np.cumsum(mine.take(at, axis=1), axis=1, dtype=np.int32)
            counted = counts.take(at, axis=1)
            if change[t].any():
                counted += np.cumsum(mine * change[t], axis=1, dtype=np.int32).take(at, axis=1)
            share = tp / np.maximum(counted, 1)
            envelope = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
            levels = np.diff(reach.reshape(-1).take(tp + base), axis=1, prepend=0)
            precision[:, t] = np.einsum("bp,bp->b", envelope, levels) / len(RECALLS)
            recall[:, t] = tp[:, -1] / whole
        precision[totals == 0] = recall[totals == 0] = np.nan


def _reached(totals: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """float64 [b, most + 1]: levels of recall up to c / total, for each c."""
    found = np.arange(int(totals.max(initial=0)) + 1)
    several, which = np.unique(totals, return_inverse=True)
    table = np.stack([np.searchsorted(RECALLS, found / total, side="right") for total in several])
    return table.astype(np.float64)[which]
