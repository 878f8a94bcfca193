"""All figures of a report, from the truth, the results and COCO's figures of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.formats.coco_json import uncollected
from maskrcnn.evaluation.backends import Case
from maskrcnn.evaluation.detections import DetectionColumns, read_detections
from maskrcnn.evaluation.eval_result import RECALLS, EvalResult
from maskrcnn.evaluation.report import averages, rankings, surroundings, working_points
from maskrcnn.evaluation.report.averages import mean, precisions
from maskrcnn.evaluation.report.boundary import boundary_overlaps
from maskrcnn.evaluation.report.figures import Named, ReportFigures
from maskrcnn.evaluation.report.intervals import LEVEL, Intervals, interval
from maskrcnn.evaluation.report.oracles import oracles
from maskrcnn.evaluation.report.overlaps import Floats, measure
from maskrcnn.evaluation.report.pairing import THRESHOLDS, Pairing, pair
from maskrcnn.evaluation.report.tide import Errors, Tide, errors_of, tide
from maskrcnn.structures.ground_truth import GroundTruth, IouType

#: COCO's number of detections an image and class; a model's own cap may be larger.
COCO_CAP = 100
#: What stands in the place of :func:`_instances` where no overlaps are measured (keypoints alone).
_NOTHING: Named = {
    **dict.fromkeys(("confusion", "background", "objects", "outcomes")),
    **{key: [] for key in ("label_errors", "images_ranked", "confident_errors")},
    "limits": {},
}
#: Told what is being computed, and which share of it is done.
Progress = Callable[[str, float], None]


def report_figures(
    truth: GroundTruth,
    results: Sequence[Mapping[str, Any]],
    result: EvalResult,
    *,
    image_ids: Iterable[int] | None = None,
    network_sizes: Mapping[int, tuple[int, int]] | None = None,
    proposals: Mapping[str, float] | None = None,
    speed: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    resamples: int = 500,
    seed: int = 0,
    progress: Progress = lambda what, share: None,
) -> ReportFigures:
    """All figures of one evaluation.

    Args:
        truth: what a data set's ``ground_truth()`` gives.
        results: COCO result records, those that ``result`` was made of.
        result: what ``evaluate_coco`` gave for them; its figures stand in the report as they are.
        image_ids: the images that were evaluated; None: all.
        network_sizes: (height, width) of each image, by its id, as the network sees it, before padding.
        proposals: recall of the proposals, by name.
        speed: of the evaluation.  about: of model and data.  Both are handed on.
        resamples: samples of the images for intervals; 0: none.
        seed: of those.
        progress: told now and then.
    """
    kinds = list(result.figures)
    ids = sorted(truth.image_ids.tolist() if image_ids is None else set(image_ids))
    images = np.array([truth.image_places[i] for i in ids], dtype=np.int64)
    measured: list[IouType] = [kind for kind in ("segm", "bbox") if kind in kinds]
    began = time.perf_counter()
    with uncollected():
        found = read_detections(results, truth, measured, ids)
    weights = averages.resamples(len(ids), resamples, seed)
    sides: dict[str, _Side] = {
        kind: _Side.make(Case(truth, found, kind, images), result, weights, progress) for kind in measured
    }
    main = sides[measured[0]] if measured else None
    f1 = None if main is None else working_points.f1_figures(main.pairing)
    names = truth.category_names
    thresholds = {
        name: one["score"]
        for name, one in zip(names, f1["classes"] if f1 else [], strict=bool(f1))
        if one["score"] is not None
    }
    parts = _NOTHING
    if main is not None:
        parts = _instances(main, thresholds, network_sizes, result.max_detections)
    spent = {"report_seconds": round(time.perf_counter() - began, 3)}
    return ReportFigures(
        kind=measured[0] if measured else kinds[0],
        iou=float(THRESHOLDS[0]),
        images=result.images,
        intervals={"level": LEVEL, "resamples": resamples, "seed": seed},
        classes=_classes(truth, result),
        figures={k: _figures(result, k, sides.get(k)) for k in kinds},
        per_class={k: _per_class(result, k, sides.get(k)) for k in kinds},
        over_iou={k: side.over_iou() for k, side in sides.items()},
        precision_recall={k: side.curves() for k, side in sides.items()},
        f1=f1,
        calibration=None if main is None else working_points.calibration(main.pairing),
        tide={k: _tide_figures(side.tide) for k, side in sides.items() if side.tide is not None},
        boundary=None if "segm" not in sides else _boundary(sides["segm"], found, progress),
        oracles={k: oracles(side.pairing, side.errors, found) for k, side in sides.items()},
        proposals=None if proposals is None else dict(proposals),
        speed=dict(speed or {}) | spent,
        about=dict(about or {}),
        thresholds=thresholds,
        notes=list(result.notes),
        **parts,
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """One kind of evaluation, measured.

    pairing: at the model's cap, or COCO's where that is larger.  precision: float64 [T, 101, K] at COCO's.
    """

    pairing: Pairing
    precision: Floats
    errors: Errors
    tide: Tide | None
    intervals: Intervals | None
    at_cap: Intervals | None

    @classmethod
    def make(
        cls, case: Case, result: EvalResult, weights: npt.NDArray[np.int32], progress: Progress
    ) -> _Side:
        name = {"bbox": "boxes", "segm": "masks"}[case.iou_type]
        found = measure(case, lambda share: progress(f"overlaps of {name}", share))
        cap = max(result.max_detections, COCO_CAP)
        pairing = pair(found, cap)
        usual = pairing if cap == COCO_CAP else pair(found, COCO_CAP)
        errors = errors_of(found, pairing.flags(0, 0)[0], rankings.used_objects(pairing))

        def resampled(of: Pairing) -> Intervals | None:
            what = f"intervals of {name}"
            return Intervals.make(of, weights, lambda share: progress(what, share)) if len(weights) else None

        return cls(
            pairing,
            precisions(usual),
            errors,
            tide(found, cap),
            resampled(usual),
            resampled(pairing) if cap > COCO_CAP else None,
        )

    def over_iou(self) -> Named:
        return {
            "iou": THRESHOLDS.tolist(),
            "all": [mean(row) for row in self.precision],
            "classes": self.precision.mean(axis=1).T.tolist(),
        }

    def curves(self) -> Named:
        def middle(threshold: int) -> list[float | None]:
            return [mean(row) for row in self.precision[threshold]]

        return {
            "recall": RECALLS.tolist(),
            "iou50": middle(0),
            "iou75": middle(5),
            "classes": self.precision[0].T.tolist(),
        }


def _classes(truth: GroundTruth, result: EvalResult) -> list[Named]:
    entries = next(iter(result.per_class.values()), [])
    counts = {e.category_id: (e.ground_truth, e.detections) for e in entries}
    return [
        {"id": i, "name": name}
        | dict(zip(("ground_truth", "detections"), counts.get(i, (None, None)), strict=True))
        for i, name in zip(truth.category_ids, truth.category_names, strict=True)
    ]


def _figures(result: EvalResult, kind: str, side: _Side | None) -> dict[str, Named]:
    out = {}
    for name, value in result.figures[kind].items():
        bare, _, cap = name.partition("@")
        of = None if side is None else side.at_cap if cap else side.intervals
        out[name] = interval(value, None if of is None else of.means(bare))
    return out


def _per_class(result: EvalResult, kind: str, side: _Side | None) -> list[dict[str, Named]]:
    out = []
    for k, entry in enumerate(result.per_class.get(kind, [])):
        row = {}
        for name, value in entry.figures.items():
            bare, _, cap = name.partition("@")
            of = None if side is None else side.at_cap if cap else side.intervals
            row[name] = interval(value, None if of is None else of.of(bare, k))
        out.append(row)
    return out


def _tide_figures(found: Tide) -> Named:
    errors = {name: {"cost": found.costs[name], "count": found.counts[name]} for name in found.costs}
    special = {"false_positive": found.false_positive, "false_negative": found.false_negative}
    return {"ap": found.ap, "errors": errors} | special


def _boundary(side: _Side, found: DetectionColumns, progress: Progress) -> Named:
    assert found.masks is not None
    of = side.pairing.overlaps
    overlaps = boundary_overlaps(of, found.masks, lambda share: progress("boundaries of masks", share))
    pairing = pair(overlaps, COCO_CAP)
    every = precisions(pairing)
    figures = {"AP": mean(every), "AP50": mean(every[0]), "AP75": mean(every[5])}
    figures |= {f"AP{letter}": mean(precisions(pairing, i)) for i, letter in enumerate("sml", start=1)}
    classes = [{"AP": mean(every[:, :, k]), "AP50": mean(every[0, :, k])} for k in range(of.classes)]
    return {"figures": figures, "classes": classes}


def _instances(
    side: _Side,
    thresholds: Mapping[str, float],
    network_sizes: Mapping[int, tuple[int, int]] | None,
    cap: int,
) -> Named:
    """The fields that are of single images and instances."""
    pairing, found = side.pairing, side.pairing.overlaps
    seen = working_points.shown(found, thresholds) & (found.rank < pairing.cap)
    outcome = rankings.outcomes(pairing, side.errors)
    used = rankings.used_objects(pairing)[~found.crowd]
    labels = found.object_label[~found.crowd]
    with np.errstate(invalid="ignore"):
        recalls = np.bincount(labels, used, minlength=found.classes) / np.bincount(
            labels, minlength=found.classes
        )
    return {
        "confusion": working_points.confusion(found, seen),
        "background": surroundings.background_figures(found, seen),
        "objects": surroundings.object_figures(pairing, seen),
        "limits": surroundings.limit_figures(found, cap, network_sizes),
        "label_errors": rankings.label_errors(outcome, seen[found.rank < pairing.cap], recalls),
        "images_ranked": rankings.ranked_images(pairing, seen),
        "confident_errors": rankings.confident_errors(outcome),
        "outcomes": outcome,
    }
