"""COCO evaluation of boxes, masks and keypoints (Lin et al. 2014; cocodataset.org/#detection-eval)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.annotation_reader import read_annotations
from maskrcnn.data.fault_report import FaultReport
from maskrcnn.data.formats.coco_json import source_name, uncollected
from maskrcnn.errors import DataError, few, plural
from maskrcnn.evaluation import oks
from maskrcnn.evaluation.backends import Backend, Case, choose_backend, run
from maskrcnn.evaluation.detections import DetectionColumns, read_detections
from maskrcnn.evaluation.diagnose import why_zero
from maskrcnn.evaluation.eval_result import AT_CAP, ClassFigures, EvalResult, Matches
from maskrcnn.structures.ground_truth import GroundTruth, IouType

#: COCO's numbers of detections an image and class.
MAX_DETECTIONS = (1, 10, 100)
#: Places of COCO's area ranges: all, small (< 32^2 px), medium, large (> 96^2 px).
AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


def evaluate_coco(
    annotations: Path | str | Mapping[str, Any] | GroundTruth,
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
        annotations: what a data set's ``ground_truth()`` gives; or a COCO annotation file or its content,
            which are read by the rules of the data set (and not modified).
        results: COCO result records (see :func:`maskrcnn.inference.records.coco_results`).  Faulty ones are
            left out and told.
        iou_types: what to compare: boxes, masks, keypoints.
        max_detections: the model's cap on detections an image.  The twelve figures are always those at
            1, 10 and 100 (the ten of keypoints at 20); a larger cap adds ``AP@cap`` and its like.
        image_ids: evaluate on these images alone; results elsewhere do not count.
        per_class: whether to list each class.
        backend: what computes the figures, see ``evaluation.backends``.
        matches: also return which detection met which annotation (computed by pycocotools).
        sigmas: of each keypoint, see ``keypoints.choose_sigmas``; None: COCO's.

    Raises:
        DataError: the annotations are unusable, none of the results is usable, or an image id is unknown.
        UserError: the backend is not installed, or ``sigmas`` do not fit the keypoints.
    """
    chosen = "pycocotools" if matches else choose_backend(backend)
    truth = annotations if isinstance(annotations, GroundTruth) else read_truth(annotations, iou_types)
    if "segm" in iou_types and not truth.has_masks:
        raise DataError(f"{truth.source}: was read without masks (masks: false); evaluate 'bbox' alone")
    ids = sorted(truth.image_ids.tolist() if image_ids is None else set(image_ids))
    strangers = [i for i in ids if i not in truth.image_places]
    if strangers:
        raise DataError(f"image id {strangers[0]} was asked for, but {truth.source} does not list it")
    images = np.array([truth.image_places[i] for i in ids], dtype=np.int64)
    joints = oks.count_keypoints(truth) if "keypoints" in iou_types else 0
    with uncollected():
        found = read_detections(results, truth, iou_types, ids, joints)
    caps = [*MAX_DETECTIONS, max_detections] if max_detections > MAX_DETECTIONS[-1] else [*MAX_DETECTIONS]

    figures: dict[str, dict[str, float | None]] = {}
    classes: dict[str, list[ClassFigures]] = {}
    found_matches: dict[str, Matches] = {}
    precision: dict[str, npt.NDArray[np.float64]] = {}
    notes = [*truth.notes, *found.notes, *_unknown_classes(truth, found)]
    for iou_type in iou_types:
        case = Case(truth, found, iou_type, images)
        if iou_type == "keypoints":
            case = replace(case, sigmas=oks.choose_sigmas(sigmas, joints))
            evaluator = run(case, [oks.MAX_DETECTIONS], chosen)
            figures[iou_type] = oks.keypoint_figures(evaluator.eval)
        else:
            evaluator = run(case, caps, chosen)
            figures[iou_type] = _figures(evaluator.eval, caps)
        if per_class:
            classes[iou_type] = _class_figures(evaluator.eval, caps, case)
            at_half = np.array(evaluator.eval["precision"])[0, :, :, 0, 0 if iou_type == "keypoints" else 2]
            precision[iou_type] = np.where(at_half < 0, np.nan, at_half)
        if matches:
            found_matches[iou_type] = _matches(evaluator, case)
        if iou_type != "keypoints" and figures[iou_type]["AP"] == 0 and len(found):
            blind = _figures(run(case, caps, chosen, use_categories=False).eval, caps)["AP"] or 0.0
            notes += why_zero(case, blind)
    taking_part = np.isin(truth.images, images)
    return EvalResult(
        figures=figures,
        per_class=classes,
        max_detections=max_detections,
        backend=chosen,
        images=len(images),
        ground_truth=int((taking_part & ~truth.crowds).sum()),
        detections=len(found),
        notes=tuple(dict.fromkeys(notes)),
        matches=found_matches,
        precision=precision,
    )


def read_truth(source: Path | str | Mapping[str, Any], iou_types: Sequence[IouType]) -> GroundTruth:
    """The ground truth of a COCO annotation file or of its content, by the rules of the data set.

    Raises:
        DataError: see :func:`maskrcnn.data.annotation_reader.read_annotations`; or masks or keypoints are
            asked for and not one annotation is usable.
    """
    source = Path(source) if isinstance(source, str) else source
    report = FaultReport(source_name(source), None)
    index = read_annotations(
        source, report, masks="segm" in iou_types, keypoints="keypoints" in iou_types, files=False
    )
    if not len(index.annotation_ids) and report.annotations:
        hint = "; evaluate 'bbox' alone" if set(report.annotations) == {"no mask"} else ""
        raise DataError(f"{report.where}: none of its annotations can be used: {report.named[0]}{hint}")
    return index.ground_truth(report.notes())


def _unknown_classes(truth: GroundTruth, found: DetectionColumns) -> list[str]:
    """A sentence where some results, not all (see ``why_zero``), are of classes that the truth lacks."""
    strangers = found.categories[~np.isin(found.categories, np.array(truth.category_ids, dtype=np.int64))]
    if not 0 < len(strangers) < len(found):
        return []
    ids = few(np.unique(strangers).tolist())
    note = (
        f"{len(strangers)} of {plural(len(found), 'result')} have category ids that {truth.source} does not"
        f" list ({ids}), so they match nothing; class indices must be mapped back to the file's category ids"
    )
    return [note]


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
    truth, rows = case.truth, case.annotations
    counted = rows[~truth.crowds[rows]]
    truths = np.bincount(truth.labels[counted], minlength=len(truth.category_ids)).tolist()
    hits = case.found.categories
    out = []
    for k, (category_id, name) in enumerate(zip(truth.category_ids, truth.category_names, strict=True)):
        one = precision[:, :, k : k + 1]
        if case.iou_type == "keypoints":
            named = oks.keypoint_figures(found, slice(k, k + 1))
        else:
            named = _precisions(one, 2)
            if len(caps) > len(MAX_DETECTIONS):
                named.update({f"{n}@{caps[3]}": v for n, v in _precisions(one, 3).items()})
        out.append(ClassFigures(category_id, name, named, truths[k], int((hits == category_id).sum())))
    return out


def _matches(evaluator: Any, case: Case) -> Matches:
    """The matches over all sizes, from pycocotools' per-image records, whose ids are places plus one."""
    everything = evaluator.params.areaRng[0]
    thresholds = np.asarray(evaluator.params.iouThrs, dtype=np.float64)
    records = [e for e in evaluator.evalImgs if e is not None and e["aRng"] == everything]
    truth = case.truth
    categories = np.array(truth.category_ids, dtype=np.int64)

    def ints(values: Iterable[Any]) -> npt.NDArray[np.int64]:
        return np.array(list(values), dtype=np.int64)

    def wide(key: str) -> npt.NDArray[Any]:
        empty = np.zeros((len(thresholds), 0))
        return np.concatenate([empty, *(np.asarray(e[key]) for e in records)], axis=1)

    def of_image(key: str, places: str) -> npt.NDArray[np.int64]:
        return ints(e[key] - 1 for e in records for _ in e[places])

    matched = wide("dtMatches").astype(np.int64)
    annotation = np.full(matched.shape, -1, dtype=np.int64)
    annotation[matched > 0] = truth.annotation_ids[matched[matched > 0] - 1]
    return Matches(
        iou_thresholds=thresholds,
        result_index=case.found.records[ints(i - 1 for e in records for i in e["dtIds"])],
        image_id=truth.image_ids[of_image("image_id", "dtIds")],
        category_id=categories[of_image("category_id", "dtIds")],
        rank=ints(r for e in records for r in range(len(e["dtIds"]))),
        score=np.array([s for e in records for s in e["dtScores"]], dtype=np.float64),
        annotation_id=annotation,
        matched=matched > 0,
        ignored=wide("dtIgnore").astype(np.bool_),
        gt_annotation_id=truth.annotation_ids[ints(i - 1 for e in records for i in e["gtIds"])],
        gt_image_id=truth.image_ids[of_image("image_id", "gtIds")],
        gt_category_id=categories[of_image("category_id", "gtIds")],
        gt_ignored=np.array([bool(g) for e in records for g in e["gtIgnore"]], dtype=np.bool_),
    )
