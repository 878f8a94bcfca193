"""Confidence intervals of a difference in average precision: a paired bootstrap over images and seeds.

Each resample draws as many validation images as there are, with replacement, the same for every variant and
seed (Efron 1979; paired, so that what makes an image hard for all cancels in a difference), and COCO's AP is
computed anew from the matches of the images drawn.

Seeds are few, and drawing three of three with replacement gives "95 %" intervals that hold the truth 81
times in 100.  Their bootstrap is therefore parametric: the seeds' differences are taken as normal, and each
resample's mean over them is moved by s / sqrt(S) times a draw of Student's t with S - 1 degrees of freedom.
If images made no spread, that would be the t interval of the paired differences; if seeds made none, the
percentile interval over images.

Legend: B = resamples, I = images, S = seeds, T = IoU thresholds, D = detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.evaluation.eval_result import RECALLS, Matches

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: Resamples, and the coverage of the intervals, in percent.
RESAMPLES, COVERAGE = 1000, 95.0
#: Draws of Student's t whose quantiles are used.
_STUDENT_SAMPLE = 1_000_000
#: Entries of the largest temporary array.
_CHUNK = 1 << 23


@dataclass(frozen=True)
class Draws:
    """The resamples that all variants share.

    image_ids: int64 [I], ascending.
    weights: float64 [B, I], how often each image was drawn; rows sum to I.
    student: float64 [B], of Student's t with S - 1 degrees of freedom; 0 for one seed.
    """

    image_ids: Ints
    weights: Floats
    student: Floats


def draw(image_ids: Sequence[int], seeds: int, resamples: int = RESAMPLES) -> Draws:
    """The same draws for the same images and number of seeds, in every run and on every machine."""
    rng = np.random.Generator(np.random.PCG64(0))
    ids = np.unique(np.asarray(image_ids, dtype=np.int64))
    count = len(ids)
    chosen = rng.integers(count, size=(resamples, count))
    weights = np.stack([np.bincount(row, minlength=count) for row in chosen]).astype(np.float64)
    student = np.zeros(resamples)
    if seeds > 1:
        # Evenly spaced quantiles in random order: so few draws of so long a tail would be noisy.
        levels = (np.arange(resamples) + 0.5) / resamples
        student = rng.permutation(np.quantile(rng.standard_t(seeds - 1, _STUDENT_SAMPLE), levels))
    return Draws(ids, weights, student)


def resampled_precision(
    matches: Matches, image_ids: Ints, weights: Floats, max_detections: int = 100
) -> Floats:
    """COCO's AP (all sizes) of every resample at every IoU threshold: the mean over the classes.

    The same as ``Matches.average_precision`` of each row, all rows at once.

    Args:
        image_ids: int64 [I], ascending; holds every image of the matches.
        weights: [B, I], how often each image counts.
        max_detections: detections counted an image and class.

    Returns:
        [B, T]; NaN where a resample holds no ground truth.
    """
    sums = np.zeros((len(weights), len(matches.iou_thresholds)))
    classes = np.zeros(len(weights))
    for category in np.unique(matches.gt_category_id):
        truth = matches.gt_image_id[(matches.gt_category_id == category) & ~matches.gt_ignored]
        place = np.searchsorted(image_ids, truth)
        totals = weights @ np.bincount(place, minlength=len(image_ids)).astype(np.float64)
        classes += totals > 0
        chosen = np.flatnonzero((matches.category_id == category) & (matches.rank < max_detections))
        chosen = chosen[np.argsort(-matches.score[chosen], kind="mergesort")]
        where = np.searchsorted(image_ids, matches.image_id[chosen])
        found, ignored = matches.matched[:, chosen], matches.ignored[:, chosen]
        step = max(1, _CHUNK // max(len(chosen), 1))
        for start in range(0, len(weights), step):
            rows = slice(start, start + step)
            sums[rows] += _class_precision(weights[rows][:, where], found, ignored, totals[rows])
    return np.divide(sums, classes[:, None], out=np.full_like(sums, np.nan), where=classes[:, None] > 0)


def _class_precision(
    weights: Floats, found: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_], totals: Floats
) -> Floats:
    """One class.  weights: [B, D], detections by falling score; found, ignored: [T, D]; totals: [B].

    Precision has its local maxima at the true positives, so the curve is needed there alone.
    """
    out = np.zeros((len(weights), len(found)))
    seen = np.cumsum(weights, axis=1)
    for t in range(len(found)):
        hits = np.flatnonzero(found[t] & ~ignored[t])
        if not len(hits):
            continue
        right = np.cumsum(weights[:, hits], axis=1)
        shown = seen[:, hits]
        dropped = np.flatnonzero(ignored[t])
        if len(dropped):
            before = np.cumsum(np.pad(weights[:, dropped], ((0, 0), (1, 0))), axis=1)
            shown = shown - before[:, np.searchsorted(dropped, hits)]
        precision = right / (shown + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = right / np.maximum(totals, 1)[:, None]
        # How many of COCO's 101 recall levels are first reached at each true positive.
        reached = np.searchsorted(RECALLS, recall, side="right")
        out[:, t] = (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return np.where(totals[:, None] > 0, out, 0.0)


def over_seeds(differences: Floats, observed: Floats, student: Floats) -> Floats:
    """The mean difference over the seeds, resampled over images and seeds.

    Args:
        differences: [S, B] of every seed and resample of the images.
        observed: [S], on the images as they are.
        student: [B], see :class:`Draws`.

    Returns:
        [B].
    """
    centre = differences.mean(axis=0)
    if len(observed) == 1:
        return np.asarray(centre)
    return np.asarray(centre + observed.std(ddof=1) / np.sqrt(len(observed)) * student)


def interval(values: Floats, coverage: float = COVERAGE) -> tuple[float, float]:
    """The percentile interval of ``values`` [B]; NaN entries (no ground truth drawn) are left out."""
    edge = (100 - coverage) / 2
    low, high = np.nanpercentile(values, [edge, 100 - edge])
    return float(low), float(high)
