"""TIDE: what kind of error each detection is, and how much AP each kind costs (Bolya et al. 2020).

The rules and the order in which they are asked are those of tidecv 1.0.1, ties of scores and of overlaps
included, so that its numbers come out: IoU 0.5 finds an object, below 0.1 there is none.  They differ from
COCO's in three
ways: the best detections of an image count whatever their class, of two objects of one IoU the first is
taken, and a class without objects of which something is detected has AP 0 instead of none.

Legend: D = detections, G = objects, K = classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from maskrcnn.evaluation.report.overlaps import Flags, Floats, Integers, Overlaps, Pairs
from maskrcnn.evaluation.report.pairing import pair

#: From here on an object is found; up to there nothing is.
FOUND, NOTHING = 0.5, 0.1
#: Kinds of errors: of a detection, and an object that none of them explains.
ERRORS = ("class", "location", "both", "duplicate", "background", "missed")
_CLASS, _LOCATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
#: TIDE reads its curves at these levels of recall.
_LEVELS = np.arange(101) / 100


@dataclass(frozen=True, eq=False)
class Errors:
    """What is wrong with each detection that finds nothing.

    kind: int64 [D], places in :data:`ERRORS`; -1 where it is right.  cause: int64 [D], the object that it
    would have found if it were placed or named better, or found already; -1: none.  iou: float64 [D] with
    that.
    """

    kind: Integers
    cause: Integers
    iou: Floats


def errors_of(found: Overlaps, right: Flags, used: Flags) -> Errors:
    """The kind of every detection that is not ``right`` [D], with the objects that are ``used`` [G]."""
    count = len(found.score)
    pairs, same = found.pairs.select(~found.of_crowd), found.same_class[~found.of_crowd]
    location = _best(pairs.select(same), count)
    other = _best(pairs.select(~same), count)
    twice = _best(pairs.select(same & used[pairs.wanted]), count)
    nearest = _best(pairs, count)
    held = np.bincount(found.object_image[~found.crowd], minlength=len(found.image_ids)) > 0
    rules = [
        (~held[found.image], _BACKGROUND, None),
        ((location[0] >= NOTHING) & (location[0] <= FOUND), _LOCATION, location),
        (other[0] >= FOUND, _CLASS, other),
        (twice[0] >= FOUND, _DUPLICATE, twice),
        (nearest[0] <= NOTHING, _BACKGROUND, None),
        (np.ones(count, dtype=np.bool_), _BOTH, nearest),
    ]
    kind, cause, iou = np.full(count, -1), np.full(count, -1), np.zeros(count)
    left = ~right
    for holds, name, why in rules:
        mine = left & holds
        kind[mine] = name
        if why is not None:
            iou[mine], cause[mine] = why[0][mine], why[1][mine]
        left &= ~holds
    return Errors(kind, cause, iou)


def _best(pairs: Pairs, count: int) -> tuple[Floats, Integers]:
    """The highest IoU of each detection and its first object: 0 and -1 without a pair."""
    best = pairs.best(count)
    iou = np.concatenate((pairs.iou, [0.0]))  # the last stands for none
    wanted = np.concatenate((pairs.wanted, [-1]))
    return iou[best], wanted[best]


@dataclass(frozen=True)
class Tide:
    """AP in [0, 1] and, by the names of :data:`ERRORS`, how many there are and what AP each kind costs.

    false_positive: what all wrong detections cost.  false_negative: what all objects that are not found cost.
    """

    ap: float
    counts: dict[str, int]
    costs: dict[str, float]
    false_positive: float
    false_negative: float


def tide(found: Overlaps, cap: int = 100) -> Tide | None:
    """The errors of the ``cap`` best detections of each image; None where there is neither side.

    Detections of classes that the truth does not have are left out.
    """
    found = found.only(found.label >= 0)
    first = np.searchsorted(found.image, found.image)
    found = found.only(np.arange(len(found.image)) - first < cap)
    used_by = _used_by(found)
    right = used_by >= 0
    used = np.zeros(len(found.crowd), dtype=np.bool_)
    used[used_by[right]] = True
    errors = errors_of(found, right, used)
    inside = found.pairs.select(found.of_crowd & found.same_class & (found.pairs.iou > FOUND)).found
    spared = np.zeros(len(right), dtype=np.bool_)
    spared[inside] = True
    spared &= ~right
    # The best that could be mended of each object which none finds.
    able = np.isin(errors.kind, (_CLASS, _LOCATION))
    able &= ~np.append(used, True)[errors.cause]  # the last stands for none
    rows = np.flatnonzero(able)
    objects, first = np.unique(errors.cause[rows], return_index=True)
    mended = np.zeros(len(right), dtype=np.bool_)
    mended[rows[first]] = True
    lost = ~found.crowd & ~used
    missed = lost.copy()
    missed[objects] = False

    totals = np.bincount(found.object_label[~found.crowd], minlength=found.classes)
    order = np.concatenate((np.flatnonzero(~right), np.flatnonzero(right)))  # so do ties stand when it mends
    counts = {name: int((errors.kind == i).sum()) for i, name in enumerate(ERRORS)}
    counts["missed"] = int(missed.sum())

    def ap(keep: Flags, tp: Flags, labels: Integers, totals: Integers, scores: Floats = found.score) -> float:
        rows = order[keep[order]]
        return _mean_ap(labels[rows], scores[rows], tp[rows], totals)

    plain = np.flatnonzero(~spared)
    if not len(plain) and not totals.any():
        return None
    base = _mean_ap(found.label[plain], found.score[plain], right[plain], totals)
    costs = {}
    for i, name in enumerate(ERRORS):
        mine = errors.kind == i
        labels = found.label.copy()
        if i == _CLASS:
            labels[mine & mended] = found.object_label[errors.cause[mine & mended]]
        gone = missed if name == "missed" else np.zeros_like(missed)
        held = totals - np.bincount(found.object_label[gone], minlength=found.classes)
        keep, tp = ~spared & ~mine | mine & mended, right | mine & mended
        costs[name] = max(ap(keep, tp, labels, held) - base, 0.0)
    perfect = ap(~spared, right, found.label, totals, right.astype(np.float64))
    held = totals - np.bincount(found.object_label[lost], minlength=found.classes)
    return Tide(base, counts, costs, perfect - base, ap(~spared, right, found.label, held) - base)


def _used_by(found: Overlaps) -> Integers:
    """int64 [D], the object that each detection finds, -1: none; of one IoU the first, crowds left out."""
    pairs = found.pairs.select(~found.of_crowd)
    pairs = pairs.select(np.lexsort((-pairs.wanted, pairs.found)))  # the pairing takes the last
    every = np.array([[-np.inf, np.inf]])
    paired = pair(replace(found, pairs=pairs), len(found.score) + 1, np.array([FOUND]), every)
    out = np.full(len(found.score), -1, dtype=np.int64)
    out[paired.rows] = paired.chosen[0, 0]
    return out


def _mean_ap(labels: Integers, scores: Floats, right: Flags, totals: Integers) -> float:
    """TIDE's AP in [0, 1], over classes that have objects or detections."""
    order = np.lexsort((-scores, labels))
    right, bounds = right[order], np.searchsorted(labels[order], np.arange(len(totals) + 1))
    aps = []
    for total, begin, end in zip(totals.tolist(), bounds[:-1], bounds[1:], strict=True):
        if not total and begin == end:
            continue
        tp = np.cumsum(right[begin:end])
        if not total or begin == end:
            aps.append(0.0)
            continue
        precision = tp / np.arange(1, len(tp) + 1)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        aps.append(float(envelope[np.searchsorted(tp / total, _LEVELS, side="left")].mean()))
    return sum(aps) / len(aps) if aps else 0.0
