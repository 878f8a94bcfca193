"""Two runs on the same images: what changed, with paired intervals, and the images where they differ most.

Both are resampled together: each resample draws the same images for both, so what is hard about them cancels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from maskrcnn.data.formats.coco_json import uncollected
from maskrcnn.evaluation.backends import Case
from maskrcnn.evaluation.detections import read_detections
from maskrcnn.evaluation.eval_result import EvalResult
from maskrcnn.evaluation.report.averages import resamples as draw_images
from maskrcnn.evaluation.report.figures import Named
from maskrcnn.evaluation.report.intervals import LEVEL, Intervals, interval
from maskrcnn.evaluation.report.make import COCO_CAP, Progress
from maskrcnn.evaluation.report.overlaps import Floats, Integers, measure
from maskrcnn.evaluation.report.pairing import pair
from maskrcnn.evaluation.report.rankings import image_counts, image_f1
from maskrcnn.evaluation.report.working_points import f1_figures, shown
from maskrcnn.structures.ground_truth import GroundTruth, IouType

#: Images that are named.
_NAMED = 200


@dataclass(frozen=True)
class ComparedFigures:
    """How a second run differs from a first.

    A *change* is ``{"first", "second", "value", "low", "high"}``: both figures, second less first, and the
    interval of that, which does not hold 0 where the change is more than the choice of images.

    intervals: as in ``ReportFigures``.  images: how many.
    figures: kind -> COCO's names -> change.
    classes: kind -> K times ``{"id", "name", "AP": change, "AP50": change}``.
    images_ranked: ``[{"image_id", "first", "second", "change"}]``, F1 at IoU 0.5 of the detections at the
        threshold of their class (each run's own); the largest changes first, 200 at most; None: the run finds
        nothing there and there is nothing.
    """

    intervals: Named
    images: int
    figures: dict[str, dict[str, Named]]
    classes: dict[str, list[Named]]
    images_ranked: list[Named]

    def to_json(self) -> Named:
        """All of it as JSON's types."""
        return {"version": 1} | {name: getattr(self, name) for name in self.__dataclass_fields__}


def compare_runs(
    truth: GroundTruth,
    results: Sequence[Sequence[Mapping[str, Any]]],
    evaluated: Sequence[EvalResult],
    *,
    image_ids: Iterable[int] | None = None,
    resamples: int = 500,
    seed: int = 0,
    progress: Progress = lambda what, share: None,
) -> ComparedFigures:
    """Compare two runs.

    Args:
        results: the two lists of COCO result records.  evaluated: what ``evaluate_coco`` gave for each.
        image_ids, resamples, seed, progress: see ``make.report_figures``.
    """
    ids = sorted(truth.image_ids.tolist() if image_ids is None else set(image_ids))
    kinds: list[IouType] = [k for k in ("segm", "bbox") if all(k in one.figures for one in evaluated)]
    weights = draw_images(len(ids), resamples, seed)
    figures: dict[str, dict[str, Named]] = {}
    classes: dict[str, list[Named]] = {}
    ranked: list[Named] = []
    for kind in kinds:
        drawn: list[Intervals] = []
        quality: list[Floats] = []
        for number, records in enumerate(results, start=1):
            what = f"run {number}, {kind}"
            with uncollected():
                found = read_detections(records, truth, [kind], ids)
            places = np.array([truth.image_places[i] for i in ids], dtype=np.int64)
            pairing = pair(measure(Case(truth, found, kind, places)), COCO_CAP)
            drawn.append(Intervals.make(pairing, weights, partial(progress, what)))
            if kind == kinds[0]:
                best = f1_figures(pairing)["classes"]
                scores = {
                    n: one["score"]
                    for n, one in zip(truth.category_names, best, strict=True)
                    if one["score"] is not None
                }
                seen = shown(pairing.overlaps, scores)
                quality.append(image_f1(image_counts(pairing.overlaps, *pairing.flags(0, 0), seen)))
        if quality:
            ranked = _ranked(pairing.overlaps.image_ids, *quality)
        one, other = evaluated
        names = [n for n in one.figures[kind] if "@" not in n and n in other.figures[kind]]
        figures[kind] = {
            n: _change(one.figures[kind][n], other.figures[kind][n], *(d.means(n) for d in drawn))
            for n in names
        }
        classes[kind] = [
            {"id": a.category_id, "name": a.name}
            | {n: _change(a.figures[n], b.figures[n], *(d.of(n, k) for d in drawn)) for n in ("AP", "AP50")}
            for k, (a, b) in enumerate(zip(one.per_class[kind], other.per_class[kind], strict=True))
        ]
    told = {"level": LEVEL, "resamples": resamples, "seed": seed}
    return ComparedFigures(told, len(ids), figures, classes, ranked)


def _change(first: float | None, second: float | None, drawn: Floats | None, other: Floats | None) -> Named:
    value = None if first is None or second is None else second - first
    both = None if drawn is None or other is None else other - drawn
    return {"first": first, "second": second} | interval(value, both, least=-1.0)


def _ranked(image_ids: Integers, first: Floats, second: Floats) -> list[Named]:
    """The largest changes of F1 first; of an image where one run alone has anything, from or to 0."""
    change = np.nan_to_num(second) - np.nan_to_num(first)
    order = np.argsort(-np.abs(change), kind="stable")[:_NAMED]
    return [
        {"image_id": int(image_ids[i]), "first": _number(first[i]), "second": _number(second[i])}
        | {"change": float(change[i])}
        for i in order.tolist()
        if change[i]
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
