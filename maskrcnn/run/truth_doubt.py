"""The truth as predictions: what a perfect model would score on a data set, by the evaluation of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.data.doctor import Doubt
from maskrcnn.data.doctor.doubts import few
from maskrcnn.data.fault_report import NAMED
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import plural
from maskrcnn.evaluation import EvalResult, IouType, evaluate_coco

#: Images that are judged, spread over the data set.
MOST_IMAGES = 2000
#: COCO's precision adds a smallest number to its denominators.
_PERFECT = 1 - 1e-6


def truth_doubt(
    dataset: Dataset, iou_types: tuple[IouType, ...], cap: int, metric: str | None = None
) -> Doubt | None:
    """That a perfect model would not score AP 1.

    cap: the model's own on detections an image (``model.roi.max_detections``).
    metric: what the run is judged by (``eval.best_metric``), where not by AP; at the cap that is meant here.
    """
    truth = dataset.ground_truth()
    ids = np.asarray(dataset.image_ids)
    ids = ids[np.unique(np.linspace(0, len(ids) - 1, MOST_IMAGES).astype(np.int64))]
    kinds = tuple(kind for kind in iou_types if kind == "bbox" or (kind == "segm" and truth.has_masks))
    rows = np.flatnonzero(~truth.crowds & np.isin(truth.image_ids, ids)[truth.images])
    if not len(rows) or not kinds:
        return None
    result = evaluate_coco(truth, perfect(dataset, rows.tolist()), kinds, max(cap, 100), ids.tolist())
    at_cap = [result.figures[kind].get(f"AP@{cap}") for kind in kinds]
    if (metric or "").endswith(f"@{cap}") and all(
        value is not None and value >= _PERFECT for value in at_cap
    ):
        return None
    # The figure that most runs are judged by; the one at the model's cap is told beside it.
    scores = {kind: result.figures[kind]["AP"] for kind in reversed(kinds)}
    kind, score = min(scores.items(), key=lambda item: item[1] if item[1] is not None else 1.0)
    if score is None or score >= _PERFECT:
        return None
    short = [c for c in result.per_class[kind] if (c.figures["AP"] or 0) < _PERFECT and c.ground_truth]
    most = _most_of_a_class(dataset, rows)
    advice = "mend what is said of masks and annotations above; this goes with it"
    if most > 100:
        own = f"{kind}/AP@{max(cap, most)}"
        advice = (
            f"an image has up to {plural(most, 'object')} of a class, and COCO's AP counts 100 detections:"
            f" set model.roi.max_detections: {max(cap, most)}, which adds {own}, and eval.best_metric: {own}"
        )
    return Doubt(
        kind="truth is not perfect",
        where=str(dataset.annotation_file),
        what="classes of which the truth, fed through the evaluator as predictions, does not score AP 1",
        count=len(short),
        total=len(result.per_class[kind]),
        of="classes",
        ids=tuple(c.category_id for c in short[:NAMED]),
        names=few(f"{c.name!r}: {c.figures['AP'] or 0:.3f}" for c in short),
        cost=f"even a perfect model scores {kind}/AP {score:.3f}{_at_cap(result, kind, cap)}",
        advice=advice,
    )


def perfect(dataset: Dataset, rows: list[int]) -> list[dict[str, Any]]:
    """Those annotations as COCO's results of score 1."""
    truth = dataset.ground_truth()
    found = []
    for row in rows:
        image = int(truth.images[row])
        record: dict[str, Any] = {
            "image_id": int(truth.image_ids[image]),
            "category_id": truth.category_ids[int(truth.labels[row])],
            "bbox": truth.boxes[row].tolist(),
            "score": 1.0,
        }
        if truth.has_masks:
            counts = truth.mask(row).decode("ascii")
            record["segmentation"] = {"size": truth.sizes[image].tolist(), "counts": counts}
        found.append(record)
    return found


def _at_cap(result: EvalResult, kind: str, cap: int) -> str:
    value = result.figures[kind].get(f"AP@{cap}")
    return "" if value is None else f" (AP@{cap}: {value:.3f})"


def _most_of_a_class(dataset: Dataset, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    truth = dataset.ground_truth()
    keys = truth.images[rows] * len(truth.category_ids) + truth.labels[rows]
    return int(np.unique(keys, return_counts=True)[1].max(initial=0))
