"""Average precision and recall from what was paired: as COCO has them, and of resampled images.

Legend: A, T, C, D, G, K as in ``pairing``; R = COCO's 101 levels of recall; B = resamples, N = images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.evaluation.eval_result import RECALLS
from maskrcnn.evaluation.report.overlaps import Flags, Floats, Integers
from maskrcnn.evaluation.report.pairing import Pairing

#: Numbers that a block of resamples holds at once; bounds memory.
_AT_ONCE = 1 << 22


def precisions(pairing: Pairing, area: int = 0) -> Floats:
    """float64 [T, R, K], as pycocotools' ``precision`` to the bit; NaN for a class without objects that count."""
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
    """Precision [T, R] from [T, D] flags by falling score: the best at each recall or a higher one, 0 beyond."""
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
    """int32 [B, N]: how often each image is drawn in each of ``count`` bootstrap samples of as many images."""
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


def sampled(pairing: Pairing, weights: npt.NDArray[np.int32]) -> Samples:
    """AP and recall of each class, threshold and size, with each image counted ``weights`` [B, N] times."""
    areas, thresholds = pairing.chosen.shape[:2]
    shape = (areas, len(weights), thresholds, pairing.overlaps.classes)
    precision, recall = np.full((2, *shape), np.nan)
    right = np.stack([pairing.right(a) for a in range(areas)])
    ignored = np.stack([pairing.ignored(a) for a in range(areas)])
    found = pairing.overlaps
    for k, mine, places in pairing.by_class():
        able = np.flatnonzero(places >= 0)
        for a in range(areas):
            owned = found.object_image[~pairing.skipped[a] & (found.object_label == k)]
            if not len(owned):
                continue
            held = np.bincount(owned, minlength=weights.shape[1])
            totals = weights @ held
            inside = ~pairing.outside[a][mine]
            step = max(_AT_ONCE // max(len(mine), 1), 1)
            for b in range(0, len(weights), step):
                part = slice(b, b + step)
                _of_class(
                    weights[part][:, found.image[mine]],
                    inside,
                    able,
                    right[a][:, places[able]],
                    ignored[a][:, places[able]],
                    totals[part],
                    precision[a, part, :, k],
                    recall[a, part, :, k],
                )
    return Samples(precision, recall)


def _of_class(
    weights: npt.NDArray[np.int32],
    inside: Flags,
    able: Integers,
    right: Flags,
    ignored: Flags,
    totals: npt.NDArray[np.int32],
    precision: Floats,
    recall: Floats,
) -> None:
    """Fill [b, T] of one class and size.

    weights: [b, D_k] of the images of its detections by falling score; inside: [D_k].  able: [C_k], those that
    have a chance, and their flags [T, C_k].  totals: [b], objects.

    Precision is highest just after a right detection, so only those are looked at: all that count up to there are
    the ones inside, and what the flags of the ``able`` change of that.
    """
    none = totals == 0
    whole = np.maximum(totals, 1)
    count = np.cumsum(weights * inside, axis=1, dtype=np.int32)[:, able]
    mine = weights[:, able]
    change = (right & ~inside[able]).astype(np.int32) - (ignored & inside[able]).astype(np.int32)
    # Levels of recall that c of the objects reach: a table of c, for each number of objects.
    reach = _reached(whole)
    for t in range(len(right)):
        at = np.flatnonzero(right[t])
        tp = np.cumsum(mine[:, at], axis=1, dtype=np.int32)
        if not len(at):
            precision[:, t] = recall[:, t] = 0.0
            continue
        counted = count[:, at]
        if change[t].any():
            counted = counted + np.cumsum(mine * change[t], axis=1, dtype=np.int32)[:, at]
        share = tp / np.maximum(counted, 1)
        envelope = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
        levels = np.diff(np.take_along_axis(reach, tp, axis=1), axis=1, prepend=0)
        precision[:, t] = (envelope * levels).sum(axis=1) / len(RECALLS)
        recall[:, t] = tp[:, -1] / whole
    precision[none] = recall[none] = np.nan


def _reached(totals: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    """int16 [b, most + 1]: levels of recall up to c / total, 0 for c = 0 (no detection is right there)."""
    found = np.arange(int(totals.max(initial=0)) + 1)
    several, which = np.unique(totals, return_inverse=True)
    table = np.stack([np.searchsorted(RECALLS, found / total, side="right") for total in several])
    table[:, 0] = 0
    return table.astype(np.int16)[which]
