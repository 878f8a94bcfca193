"""The libraries that compute COCO's precisions and recalls, behind one function.

pycocotools is the reference.  hotcoco computes the same numbers to the bit in a small part of the time and is
what a plain install brings where it has a wheel.  faster-coco-eval is still known by name; its precisions
differ by one rounding (2.2e-16) at most, since pycocotools adds the smallest number to each denominator.

All three get places as ids (images and categories from 1, in the order of the truth, annotations and
detections likewise), so that no id of a data set ever reaches them: pycocotools takes an annotation of id 0
for "not matched".
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskrcnn.data.formats.coco_json import uncollected
from maskrcnn.errors import UserError
from maskrcnn.evaluation.detections import DetectionColumns, Integers
from maskrcnn.structures import rle
from maskrcnn.structures.ground_truth import GroundTruth

Backend = Literal["auto", "hotcoco", "pycocotools", "faster"]
_MODULES = {"hotcoco": "hotcoco", "faster": "faster_coco_eval"}
_PACKAGES = {"hotcoco": "hotcoco", "faster": "faster-coco-eval"}


def choose_backend(backend: Backend) -> Literal["hotcoco", "pycocotools", "faster"]:
    """The evaluator that ``backend`` stands for on this machine.

    Raises:
        UserError: an unknown name, or one that is not installed.
    """
    if backend == "auto":
        return "hotcoco" if _installed("hotcoco") else "pycocotools"
    if backend not in ("hotcoco", "pycocotools", "faster"):
        raise UserError(f"unknown evaluation backend {backend!r}; known: auto, faster, hotcoco, pycocotools")
    if backend != "pycocotools" and not _installed(backend):
        raise UserError(
            f"the evaluation backend {backend!r} needs 'pip install {_PACKAGES[backend]}'; or choose"
            " 'pycocotools'"
        )
    return backend


def _installed(backend: str) -> bool:
    return importlib.util.find_spec(_MODULES[backend]) is not None


@dataclass(frozen=True, eq=False)
class Case:
    """One evaluation to run.

    truth, found: both sides.  images: int64 [n], places of those that take part, rising.
    iou_type: bbox, segm or keypoints.
    sigmas: of keypoints, float64 [J]; None: COCO's.
    """

    truth: GroundTruth
    found: DetectionColumns
    iou_type: str
    images: Integers
    sigmas: npt.NDArray[np.float64] | None = None

    @property
    def annotations(self) -> Integers:
        """int64 [a], places of the annotations that take part, in the order of the file."""
        return np.flatnonzero(np.isin(self.truth.images, self.images))

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """float64 [D] of the detections, so that small, medium and large mean the same as for the truth."""
        if self.iou_type == "segm":
            assert self.found.mask_areas is not None
            return self.found.mask_areas.astype(np.float64)
        boxes = self.boxes
        return boxes[:, 2] * boxes[:, 3]

    @property
    def boxes(self) -> npt.NDArray[np.float64]:
        """float64 [D, 4] of the detections; for keypoints the box around them, as COCO has it."""
        if self.iou_type == "bbox":
            assert self.found.boxes is not None
            return self.found.boxes
        if self.iou_type == "segm":
            return np.zeros((len(self.found), 4))
        assert self.found.keypoints is not None
        x, y = self.found.keypoints[:, 0::3], self.found.keypoints[:, 1::3]
        left, top = x.min(1), y.min(1)
        return np.stack((left, top, x.max(1) - left, y.max(1) - top), axis=1)


def run(case: Case, caps: Sequence[int], backend: str, use_categories: bool = True) -> Any:
    """The evaluator object of the backend after ``evaluate()`` and ``accumulate()``, silently.

    Its ``eval`` holds ``precision`` [T, recalls, K, areas, caps], ``recall`` and ``scores``.
    """
    truth = case.truth
    images = [
        {"id": i + 1, "height": height, "width": width}
        for i, (height, width) in zip(case.images.tolist(), truth.sizes[case.images].tolist(), strict=True)
    ]
    categories = [{"id": k + 1, "name": str(k)} for k in range(len(truth.category_ids))]
    coco, evaluator_of = _classes(backend)
    with contextlib.redirect_stdout(io.StringIO()), uncollected():
        if backend == "hotcoco" and case.iou_type != "keypoints":
            sides = _from_columns(coco, case, images, categories)
        else:
            sides = _from_records(coco, case, images, categories)
        evaluator = evaluator_of(*sides, case.iou_type)
        evaluator.params.imgIds = [i["id"] for i in images]
        evaluator.params.maxDets = list(caps)
        evaluator.params.useCats = use_categories
        if case.sigmas is not None:
            evaluator.params.kpt_oks_sigmas = case.sigmas
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _classes(backend: str) -> tuple[Any, Any]:
    """The backend's class of annotations and of evaluators."""
    if backend == "hotcoco":
        import hotcoco

        return hotcoco.COCO, hotcoco.COCOeval
    if backend == "faster":
        import faster_coco_eval

        return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def category_places(case: Case) -> Integers:
    """int64 [D], each detection's category as a place from 1; K + 1 where the truth has it not."""
    truth = case.truth
    ids = np.array(truth.category_ids, dtype=np.int64)
    at = np.searchsorted(ids, case.found.categories)
    known = ids[np.minimum(at, len(ids) - 1)] == case.found.categories
    return np.where(known, at + 1, len(ids) + 1)


def _from_records(coco: Any, case: Case, images: list[Any], categories: list[Any]) -> list[Any]:
    """Truth and detections as objects of the class, an object an annotation."""
    sides = []
    for records in (truth_records(case), detection_records(case)):
        side = coco()
        side.dataset = {"images": images, "categories": categories, "annotations": records}
        side.createIndex()
        sides.append(side)
    return sides


def truth_records(case: Case) -> list[dict[str, Any]]:
    """The annotations that take part, as the evaluators read them."""
    truth, rows = case.truth, case.annotations
    columns: dict[str, Iterable[Any]] = {
        "id": (rows + 1).tolist(),
        "image_id": (truth.images[rows] + 1).tolist(),
        "category_id": (truth.labels[rows] + 1).tolist(),
        "bbox": truth.boxes[rows].tolist(),
        "area": map(truth.area, rows.tolist()),
        "iscrowd": truth.crowds[rows].astype(np.int64).tolist(),
    }
    if case.iou_type == "segm":
        columns["segmentation"] = [_code(truth, row) for row in rows.tolist()]
    elif case.iou_type == "keypoints":
        assert truth.keypoints is not None
        columns["keypoints"] = truth.keypoints[rows].tolist()
        columns["num_keypoints"] = truth.labelled[rows].tolist()
    return _rows(columns)


def detection_records(case: Case) -> list[dict[str, Any]]:
    """The detections as the evaluators read them; an id is the place in the columns plus one."""
    found = case.found
    columns: dict[str, Iterable[Any]] = {
        "id": range(1, len(found) + 1),
        "image_id": (found.images + 1).tolist(),
        "category_id": category_places(case).tolist(),
        "score": found.scores.tolist(),
        "bbox": case.boxes.tolist(),
        "area": case.areas.tolist(),
        "iscrowd": [0] * len(found),
    }
    if case.iou_type == "segm":
        assert found.masks is not None
        columns["segmentation"] = found.masks
    elif case.iou_type == "keypoints":
        assert found.keypoints is not None
        columns["keypoints"] = found.keypoints.tolist()
    return _rows(columns)


def _rows(columns: dict[str, Iterable[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _from_columns(coco: Any, case: Case, images: list[Any], categories: list[Any]) -> list[Any]:
    """Truth and detections, boxes or masks, as objects of hotcoco's class."""
    truth, found, rows = case.truth, case.found, case.annotations
    segm = case.iou_type == "segm"
    reference = coco.from_arrays(
        images,
        categories,
        truth.images[rows] + 1,
        truth.labels[rows] + 1,
        truth.boxes[rows],
        ids=rows + 1,
        area=np.array([truth.area(i) for i in rows.tolist()]),
        iscrowd=truth.crowds[rows].astype(np.int64),
        segmentation=_shapes(truth, rows.tolist()) if segm else None,
    )
    places = category_places(case)
    known = np.flatnonzero(places <= len(categories))  # the others match nothing, and would be warned about
    masks = found.masks if segm else None
    if masks is not None and len(known) < len(found):
        masks = [masks[i] for i in known.tolist()]
    table = np.column_stack((found.images + 1, case.boxes, found.scores, places))[known]
    detections = reference.load_res(table, segmentation=masks)
    if segm:  # else the boxes' areas decide what is small, medium and large
        detections.update_anns(ids=np.arange(1, len(known) + 1), area=case.areas[known])
    return [reference, detections]


def _shapes(truth: GroundTruth, rows: list[int]) -> list[Any]:
    """Polygons, which hotcoco draws as pycocotools does, and run-length codes."""
    outlines = [None if truth.outline is None else truth.outline(i) for i in rows]
    return [
        _code(truth, i) if outline is None else outline for i, outline in zip(rows, outlines, strict=True)
    ]


def _code(truth: GroundTruth, row: int) -> rle.RLE:
    """The run-length code of one annotation."""
    return {"size": truth.sizes[truth.images[row]].tolist(), "counts": truth.mask(row)}
