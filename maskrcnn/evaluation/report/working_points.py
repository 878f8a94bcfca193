"""What a model is at a score: F1 and its best threshold, calibration, and what is taken for what.

All at IoU 0.5, of the detections within the model's cap; those that lie in a crowd count nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from maskrcnn.evaluation.report.averages import objects
from maskrcnn.evaluation.report.figures import Named
from maskrcnn.evaluation.report.overlaps import Flags, Floats, Integers, Overlaps
from maskrcnn.evaluation.report.pairing import Pairing, pair

#: Scores at which curves are drawn.
SCORES: Floats = np.linspace(0.0, 1.0, 101)
#: From this score on a class's detections are shown where it has no threshold of its own.
PLAIN = 0.5
#: Bins of the reliability diagram.
BINS = 10
#: A confusion matrix of more classes is not listed whole; so many of its largest mistakes are named.
_LARGEST, _NAMED = 100, 50


def f1_figures(pairing: Pairing) -> Named:
    """See ``ReportFigures.f1``."""
    right, wrong = pairing.flags(0, 0)
    label, score, totals = pairing.overlaps.label, pairing.overlaps.score, objects(pairing)
    classes = [
        _curve(score[label == k], right[label == k], wrong[label == k], total)
        for k, total in enumerate(totals.tolist())
    ]
    every = _curve(score, right, wrong, int(totals.sum()))
    together = {"precision": every["precisions"], "recall": every["recalls"], "f1": every["curve"]}
    together |= {"score": every["score"], "best_f1": every["f1"]}
    kept = ("score", "f1", "precision", "recall", "curve")
    return {
        "scores": SCORES.tolist(),
        "all": together,
        "classes": [{name: one[name] for name in kept} for one in classes],
    }


def _curve(score: Floats, right: Flags, wrong: Flags, total: int) -> Named:
    """Precision, recall and F1 at each of :data:`SCORES` and better, and at the score of the best F1.

    Of several scores of one F1 the highest, and of the gap below it the middle: between the last detection
    that is kept and the first that is dropped, or 0, so that another image's, which score a little less, are
    kept too.  Where nothing is right there is no best.
    """
    counted = right | wrong
    order = np.argsort(-score[counted], kind="stable")
    falling = score[counted][order]
    tp = np.concatenate(([0], np.cumsum(right[counted][order])))
    number = np.arange(len(tp))  # how many stand up to there
    with np.errstate(invalid="ignore"):
        f1, precision = 2 * tp / (number + total), tp / number
        recall = tp / np.float64(total)
    last = np.searchsorted(-falling, -SCORES, side="right")  # those of that score and better
    out = {"curve": f1[last], "precisions": precision[last], "recalls": recall[last]}
    # Only where a score ends can a threshold lie.
    ends = np.append(np.flatnonzero(np.diff(falling) < 0) + 1, len(falling))
    best = int(ends[np.argmax(f1[ends])]) if tp[-1] and total else 0
    if not best:
        return out | {"score": None, "f1": None, "precision": None, "recall": None}
    at = {"f1": float(f1[best]), "precision": float(precision[best]), "recall": float(recall[best])}
    dropped = float(falling[best]) if best < len(falling) else 0.0
    return out | {"score": (float(falling[best - 1]) + dropped) / 2} | at


def shown(found: Overlaps, thresholds: Mapping[str, float]) -> Flags:
    """bool [D], detections at the threshold of their class and better."""
    names = found.truth.category_names
    lowest = np.array([thresholds.get(name, PLAIN) for name in names] + [PLAIN])
    return np.asarray(found.score >= lowest[found.label])


def calibration(pairing: Pairing) -> Named:
    """See ``ReportFigures.calibration``."""
    right, wrong = pairing.flags(0, 0)
    label, score = pairing.overlaps.label, pairing.overlaps.score
    counted = right | wrong
    bins = [
        {"low": i / BINS, "high": (i + 1) / BINS, "count": int(n), "confidence": c, "precision": p}
        for i, (n, c, p) in enumerate(zip(*_bins(score[counted], right[counted]), strict=True))
    ]
    gaps = [abs(b["confidence"] - b["precision"]) for b in bins if b["count"]]
    classes = [
        _ece(score[counted & (label == k)], right[counted & (label == k)])
        for k in range(pairing.overlaps.classes)
    ]
    ece = _ece(score[counted], right[counted])
    return {"bins": bins, "ece": ece, "mce": max(gaps, default=None), "classes": classes}


def _bins(score: Floats, right: Flags) -> tuple[Integers, Floats, Floats]:
    """Of each bin how many, their mean score, and the share that is right; NaN where there are none."""
    which = np.clip((score * BINS).astype(np.int64), 0, BINS - 1)
    count = np.bincount(which, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(which, score, minlength=BINS) / count
        precision = np.bincount(which, right, minlength=BINS) / count
    return count, confidence, precision


def _ece(score: Floats, right: Flags) -> float | None:
    """The gap between score and precision, a mean over all detections; None without any."""
    count, confidence, precision = _bins(score, right)
    held = count > 0
    gaps = np.abs(confidence - precision)[held]
    return float((gaps * count[held]).sum() / count.sum()) if held.any() else None


def confusion(found: Overlaps, which: Flags) -> Named:
    """See ``ReportFigures.confusion``: by falling score each of the detections ``which`` [D] takes the object
    that it overlaps most, whatever its class.
    """
    found = found.only(which & (found.label >= 0))
    count = found.classes
    nameless = np.zeros_like(found.label)
    blind = replace(found.with_labels(nameless), object_label=np.zeros_like(found.object_label))
    every = np.array([[-np.inf, np.inf]])
    paired = pair(blind, len(found.score) + 1, np.array([0.5]), every)
    took = np.full(len(found.score), -1, dtype=np.int64)
    took[paired.rows] = paired.chosen[0, 0]
    matrix = np.zeros((count + 1, count + 1), dtype=np.int64)
    met = took >= 0
    of_objects = met & ~np.append(found.crowd, True)[took]  # the last stands for none
    np.add.at(matrix, (found.object_label[took[of_objects]], found.label[of_objects]), 1)
    matrix[count] += np.bincount(found.label[~met], minlength=count + 1)
    lost = ~found.crowd
    lost[took[of_objects]] = False
    matrix[:, count] += np.bincount(found.object_label[lost], minlength=count + 1)
    names = [*found.truth.category_names, "background"]
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_NAMED]
    pairs = [
        {"truth": names[r], "predicted": names[c], "count": int(matrix[r, c])}
        for r, c in zip(*np.unravel_index(order, matrix.shape), strict=True)
        if mistakes[r, c]
    ]
    whole = matrix.tolist() if count <= _LARGEST else None
    return {"names": names, "matrix": whole, "pairs": pairs}
