"""COCO evaluation of boxes, masks and keypoints (Lin et al. 2014; cocodataset.org/#detection-eval).

pycocotools is the reference.  faster-coco-eval computes the same figures in a fraction of the time and is
used where it is installed.  Their precisions differ by one rounding (2.2e-16) at most, since pycocotools
adds the smallest number to each denominator and faster-coco-eval does not; so figures agree to 1e-15.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskrcnn.errors import DataError, UserError
from maskrcnn.evaluation import keypoints as oks
from maskrcnn.evaluation.coco_input import GroundTruth, detection_records, read_ground_truth
from maskrcnn.evaluation.diagnose import why_zero
from maskrcnn.evaluation.eval_result import AT_CAP, ClassFigures, EvalResult, Matches

IouType = Literal["bbox", "segm", "keypoints"]
Backend = Literal["auto", "pycocotools", "faster"]
#: COCO's numbers of detections an image and class.
MAX_DETECTIONS = (1, 10, 100)
#: Places of COCO's area ranges: all, small (< 32^2 px), medium, large (> 96^2 px).
AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


def evaluate_coco(
    annotations: Path | str | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_types: Sequence[IouType] = ("bbox", "segm"),
    max_detections: int = 100,
    image_ids: Iterable[int] | None = None,
    per_class: bool = True,
    backend: Backend = "auto",
    matches: bool = False,
    sigmas: Sequence[float] | None = None,
) -> EvalResult:
    """Compute COCO's figures.

    Args:
        annotations: a COCO annotation file, or its content; not modified.
        results: COCO result records (see ``results.coco_results``).
        iou_types: what to compare: boxes, masks, keypoints.
        max_detections: the model's cap on detections an image.  The twelve figures are always those at
            1, 10 and 100 (the ten of keypoints at 20); a larger cap adds ``AP@cap`` and its like.
        image_ids: evaluate on these images alone; results elsewhere do not count.
        per_class: whether to list each class.
        backend: "auto" takes faster-coco-eval where installed, else pycocotools.
        matches: also return which detection met which annotation (computed by pycocotools).
        sigmas: of each keypoint, see ``keypoints.choose_sigmas``; None: COCO's.

    Raises:
        DataError: the annotations or the results are unusable, or name different images.
        UserError: the backend is not installed, or ``sigmas`` do not fit the keypoints.
    """
    chosen = "pycocotools" if matches else choose_backend(backend)
    truth = read_ground_truth(annotations, masks="segm" in iou_types)
    images = sorted(truth.images if image_ids is None else set(image_ids))
    strangers = [i for i in images if i not in truth.images]
    if strangers:
        raise DataError(f"image id {strangers[0]} was asked for, but {truth.source} does not list it")
    caps = [*MAX_DETECTIONS, max_detections] if max_detections > MAX_DETECTIONS[-1] else [*MAX_DETECTIONS]

    figures: dict[str, dict[str, float | None]] = {}
    classes: dict[str, list[ClassFigures]] = {}
    found_matches: dict[str, Matches] = {}
    notes = list(truth.notes)
    counted = 0
    wanted = set(images)
    for iou_type in iou_types:
        case = Case(truth, detection_records(results, iou_type, truth, images), iou_type, images)
        counted = len(case.detections)
        if iou_type == "keypoints":
            joints = oks.count_keypoints(truth)
            oks.check_counts(case.detections, joints)
            case = replace(case, joints=joints, sigmas=oks.choose_sigmas(sigmas, joints))
            evaluator = run(case, [oks.MAX_DETECTIONS], chosen)
            figures[iou_type] = oks.keypoint_figures(evaluator.eval)
        else:
            evaluator = run(case, caps, chosen)
            figures[iou_type] = _figures(evaluator.eval, caps)
        if per_class:
            classes[iou_type] = _class_figures(evaluator.eval, caps, case)
        if matches:
            found_matches[iou_type] = _matches(evaluator, truth)
        if iou_type != "keypoints" and figures[iou_type]["AP"] == 0 and case.detections:
            blind = _figures(run(case, caps, chosen, use_categories=False).eval, caps)["AP"] or 0.0
            notes += why_zero(case.annotations, case.detections, iou_type, truth, blind)
    return EvalResult(
        figures=figures,
        per_class=classes,
        max_detections=max_detections,
        backend=chosen,
        images=len(images),
        ground_truth=sum(1 for a in truth.annotations if not a["iscrowd"] and a["image_id"] in wanted),
        detections=counted,
        notes=tuple(dict.fromkeys(notes)),
        matches=found_matches,
    )


def choose_backend(backend: Backend) -> Literal["pycocotools", "faster"]:
    """The evaluator that ``backend`` stands for on this machine.

    Raises:
        UserError: an unknown name, or faster-coco-eval asked for and not installed.
    """
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if backend == "auto":
        return "faster" if installed else "pycocotools"
    if backend not in ("pycocotools", "faster"):
        raise UserError(f"unknown evaluation backend {backend!r}; known: auto, faster, pycocotools")
    if backend == "faster" and not installed:
        raise UserError(
            "the evaluation backend 'faster' needs 'pip install faster-coco-eval'; or choose 'pycocotools'"
        )
    return backend


@dataclass(frozen=True)
class Case:
    """One evaluation to run: the ground truth, the completed detections, what to compare, image ids; of
    keypoints, their number and their sigmas (None: COCO's).
    """

    truth: GroundTruth
    detections: list[dict[str, Any]]
    iou_type: str
    images: list[int]
    joints: int = 0
    sigmas: npt.NDArray[np.float64] | None = None

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """The annotations that take part, as fresh records (the evaluators write into theirs)."""
        wanted = set(self.images)
        skip = self.truth.without_mask if self.iou_type == "segm" else frozenset()
        found = [dict(a) for a in self.truth.annotations if a["image_id"] in wanted and a["id"] not in skip]
        return oks.complete_truth(found, self.joints) if self.iou_type == "keypoints" else found


def run(case: Case, caps: Sequence[int], backend: str, use_categories: bool = True) -> Any:
    """The evaluator object of the backend after ``evaluate()`` and ``accumulate()``, silently."""
    shared = {
        "images": [{**case.truth.images[i], "id": i} for i in case.images],
        "categories": [{"id": i, "name": name} for i, name in case.truth.categories.items()],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        if backend == "faster":
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as Evaluator
        else:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval as Evaluator
        sides = []
        for records in (case.annotations, [dict(d) for d in case.detections]):
            side = COCO()
            side.dataset = {**shared, "annotations": records}
            side.createIndex()
            sides.append(side)
        evaluator = Evaluator(sides[0], sides[1], case.iou_type)
        evaluator.params.imgIds = case.images
        evaluator.params.maxDets = list(caps)
        evaluator.params.useCats = int(use_categories)
        if case.sigmas is not None:
            evaluator.params.kpt_oks_sigmas = case.sigmas
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """Mean of the defined entries (COCO writes -1 where there is no ground truth)."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def _precisions(precision: npt.NDArray[np.float64], cap: int) -> dict[str, float | None]:
    """AP and its like; ``precision`` [T, recalls, classes, areas, caps], ``cap`` a place in the last."""
    out = {"AP": _mean(precision[:, :, :, 0, cap])}
    out["AP50"] = _mean(precision[0, :, :, 0, cap])
    out["AP75"] = _mean(precision[5, :, :, 0, cap])
    for letter in "sml":
        out["AP" + letter] = _mean(precision[:, :, :, AREAS[letter], cap])
    return out


def _figures(found: Mapping[str, Any], caps: Sequence[int]) -> dict[str, float | None]:
    """COCO's twelve, and those at the model's cap."""
    precision, recall = np.asarray(found["precision"]), np.asarray(found["recall"])
    out = _precisions(precision, 2)
    for place, cap in enumerate(MAX_DETECTIONS):
        out[f"AR{cap}"] = _mean(recall[:, :, 0, place])
    for letter in "sml":
        out["AR" + letter] = _mean(recall[:, :, AREAS[letter], 2])
    if len(caps) > len(MAX_DETECTIONS):
        at_cap = {**_precisions(precision, 3), "AR": _mean(recall[:, :, 0, 3])}
        out.update({f"{name}@{caps[3]}": at_cap[name] for name in AT_CAP})
    return out


def _class_figures(found: Mapping[str, Any], caps: Sequence[int], case: Case) -> list[ClassFigures]:
    precision = np.asarray(found["precision"])
    truths = Counter(a["category_id"] for a in case.annotations if not a["iscrowd"])
    hits = Counter(d["category_id"] for d in case.detections)
    out = []
    for k, (category_id, name) in enumerate(case.truth.categories.items()):
        one = precision[:, :, k : k + 1]
        if case.iou_type == "keypoints":
            named = oks.keypoint_figures(found, slice(k, k + 1))
        else:
            named = _precisions(one, 2)
        if case.iou_type != "keypoints" and len(caps) > len(MAX_DETECTIONS):
            named.update({f"{n}@{caps[3]}": v for n, v in _precisions(one, 3).items()})
        out.append(ClassFigures(category_id, name, named, truths[category_id], hits[category_id]))
    return out


def _matches(evaluator: Any, truth: GroundTruth) -> Matches:
    """The matches over all sizes, from pycocotools' per-image records."""
    everything = evaluator.params.areaRng[0]
    thresholds = np.asarray(evaluator.params.iouThrs, dtype=np.float64)
    records = [e for e in evaluator.evalImgs if e is not None and e["aRng"] == everything]

    def ints(values: Iterable[Any]) -> npt.NDArray[np.int64]:
        return np.array(list(values), dtype=np.int64)

    def wide(key: str) -> npt.NDArray[Any]:
        empty = np.zeros((len(thresholds), 0))
        return np.concatenate([empty, *(np.asarray(e[key]) for e in records)], axis=1)

    matched = wide("dtMatches").astype(np.int64)
    original = truth.original_ids
    named = ints(original.get(i, i) for i in matched.reshape(-1).tolist()).reshape(matched.shape)
    return Matches(
        iou_thresholds=thresholds,
        result_index=ints(i - 1 for e in records for i in e["dtIds"]),
        image_id=ints(e["image_id"] for e in records for _ in e["dtIds"]),
        category_id=ints(e["category_id"] for e in records for _ in e["dtIds"]),
        rank=ints(r for e in records for r in range(len(e["dtIds"]))),
        score=np.array([s for e in records for s in e["dtScores"]], dtype=np.float64),
        annotation_id=np.where(matched > 0, named, -1),
        ignored=wide("dtIgnore").astype(np.bool_),
        gt_annotation_id=ints(original.get(i, i) for e in records for i in e["gtIds"]),
        gt_image_id=ints(e["image_id"] for e in records for _ in e["gtIds"]),
        gt_category_id=ints(e["category_id"] for e in records for _ in e["gtIds"]),
        gt_ignored=np.array([bool(g) for e in records for g in e["gtIgnore"]], dtype=np.bool_),
    )
