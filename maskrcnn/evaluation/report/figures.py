"""The figures of a report, as plain numbers: what ``viz`` draws and what stands in the json beside a page.

Legend: K = classes, T = the ten IoU thresholds of COCO, S = 101 scores 0.00, 0.01 .. 1.00.
A *value* is ``{"value": x, "low": l, "high": h}``, the figure and its interval over images; each may be None.
Figures are in [0, 1], and None where they are not defined (no ground truth of that kind, keypoints alone).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

#: What can become of a detection: right, TIDE's errors of detections, and matched to a crowd.
OUTCOMES = ("right", "class", "location", "both", "duplicate", "background", "ignored")

Named = dict[str, Any]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of every detection and object at IoU 0.5, for the gallery; arrays, not in the json.

    Legend: D = detections that take part (at most COCO's 100 an image and class), G = objects, crowds too.

    result: int64 [D], place in the list of results.  image: int64 [D], image ids.
    label: int64 [D], places among the classes; -1 for a class that the truth has not.
    score: float64 [D].  outcome: int64 [D], places in :data:`OUTCOMES`.
    truth: int64 [D], the object (a place among the G) that it found, or would have but for its error; -1.
    iou: float64 [D], with that object; 0 without one.

    annotation: int64 [G], annotation ids.  object_image: int64 [G], image ids.  object_label: int64 [G].
    crowd: bool [G].  found: int64 [G], the detection (a place among the D) that found it, -1: none.
    best: float64 [G], the highest IoU of any detection, whatever its class and score; 0: none overlaps.
    """

    result: Integers
    image: Integers
    label: Integers
    score: Floats
    outcome: Integers
    truth: Integers
    iou: Floats
    annotation: Integers
    object_image: Integers
    object_label: Integers
    crowd: npt.NDArray[np.bool_]
    found: Integers
    best: Floats


@dataclass(frozen=True, eq=False)
class ReportFigures:
    """All figures of one evaluation.

    kind: the kind of evaluation that errors, F1, calibration, rankings are of: the first there is of "segm",
        "bbox", "keypoints" (then what needs overlaps of boxes or masks is None).
    iou: 0.5, at which those are judged.  images: how many.  intervals: ``{"level": 0.95, "resamples": n,
        "seed": s}``.
    classes: K times ``{"id", "name", "ground_truth", "detections"}``; ground truth without crowds.
    figures: kind -> COCO's names (and those at the cap) -> value.  The numbers of ``EvalResult.figures``.
    per_class: kind -> K times ``{"AP": value, "AP50": value, "AP75", "APs", "APm", "APl" ...}``; AP, AP50 and
        AP75 have intervals.
    over_iou: kind -> ``{"iou": [T], "all": [T], "classes": K x [T]}``, AP at each threshold.
    precision_recall: kind -> ``{"recall": [101], "iou50": [101], "iou75": [101], "classes": K x [101]}``,
        mean over classes, and each class at IoU 0.5 (None for a class without ground truth).
    f1: ``{"scores": [S], "all": {"precision": [S], "recall": [S], "f1": [S], "score", "best_f1"},
        "classes": K x {"score", "f1", "precision", "recall", "curve": [S]}}``: at IoU 0.5, of the detections
        of that score and better; ``score`` is the threshold of the best F1 (None without a right detection).
        ``all`` counts all classes together.
    calibration: ``{"bins": [{"low", "high", "count", "confidence", "precision"}], "ece", "mce",
        "classes": K x ece}``; ten bins of equal width.
    confusion: ``{"score", "names": [.., "background"], "matrix": (K + 1) x (K + 1) or None (K > 100),
        "pairs": [{"truth", "predicted", "count"}]}``: rows are the truth, columns the prediction, the last of each is
        background (nothing there; nothing found); ``pairs`` are the largest mistakes by class names, 50 at
        most; of the detections of ``score`` and better.
    tide: kind -> ``{"ap", "errors": {"class" | "location" | "both" | "duplicate" | "background" | "missed":
        {"cost", "count"}}, "false_positive": cost, "false_negative": cost}``; TIDE's AP at IoU 0.5, not in %.
    boundary: ``{"figures": {"AP", "AP50", "AP75", "APs", "APm", "APl"}, "classes": K x {"AP", "AP50"}}``.
    oracles: kind -> ``{"now", "boxes", "masks", "classes", "scores", "no_background", "no_duplicates",
        "all_found"}`` -> ``{"AP", "AP50"}``; those that do not apply are left out.
    proposals: what was given: ``{"AR@100": .., "AR@1000": .., "recall50@1000": ..}``; None: not asked.
    background: ``{"images", "with_detections", "detections", "score", "worst": [{"image_id", "detections",
        "score"}]}``: images without any object, and what is found there at ``score`` and better.
    objects: ``{"sizes": [{"low", "high", "count", "found"}], "border": {"count", "found", "AP"?}, "inside":
        {"count", "found"}}``: sides of squares of the same area, original pixels; ``found`` is the share that
        a right detection finds at the threshold of best F1 of its class.
    limits: ``{"cap", "images_at_cap", "images_over_cap", "tiny", "tiny_pixels": 8}``: images with as many
        detections as the model gives at most, images with more objects than that, objects whose shorter side
        is below 8 px at the network's size (None where sizes are not given).
    speed: what was given: ``{"images_per_second", "seconds", "peak_bytes", ...}``.
    about: what was given about model and data: plain names and numbers.
    label_errors: ``[{"type": "unlabelled" | "unfound" | "class", "image_id", "annotation_id", "result",
        "label", "predicted", "score", "iou"}]``, the likeliest first, 200 at most; what does not apply is None.
    images_ranked: ``[{"image_id", "f1", "right", "wrong", "missed", "objects"}]`` by rising f1, every image
        with an object or a detection of the threshold of its class.
    confident_errors: ``[{"result", "image_id", "label", "score", "outcome", "annotation_id", "iou"}]`` by
        falling score, 500 at most.
    thresholds: class name -> score of the best F1, what ``write_thresholds`` takes.
    notes: a sentence each.
    outcomes: for the gallery; None for keypoints.
    """

    kind: str
    iou: float
    images: int
    intervals: Named
    classes: list[Named]
    figures: dict[str, dict[str, Named]]
    per_class: dict[str, list[dict[str, Named]]]
    over_iou: dict[str, Named]
    precision_recall: dict[str, Named]
    f1: Named | None
    calibration: Named | None
    confusion: Named | None
    tide: dict[str, Named]
    boundary: Named | None
    oracles: dict[str, Named]
    proposals: Named | None
    background: Named | None
    objects: Named | None
    limits: Named
    speed: Named | None
    about: Named
    label_errors: list[Named]
    images_ranked: list[Named]
    confident_errors: list[Named]
    thresholds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    outcomes: Outcomes | None = None

    def to_json(self) -> Named:
        """Everything but ``outcomes`` as JSON's types: what is not finite is None."""
        names = [name for name in self.__dataclass_fields__ if name != "outcomes"]
        return {"version": 1} | {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value
