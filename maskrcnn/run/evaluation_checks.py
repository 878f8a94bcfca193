"""Whether the recipe's evaluations can be had, and the data have what they compare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskrcnn.data import Dataset
from maskrcnn.errors import DataError, plural
from maskrcnn.evaluation.backends import choose_backend
from maskrcnn.evaluation.eval_result import check_metric
from maskrcnn.evaluation.oks import choose_sigmas
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe
from maskrcnn.run.preflight import CHECKS, Start
from maskrcnn.run.setup import build_transforms, iou_types

#: COCO's area ranges by the letter that a figure's name ends in, pixels, both ends included.
_AREAS = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}


@CHECKS.register("transforms")
def check_transforms(start: Start) -> None:
    """See :func:`maskrcnn.run.setup.build_transforms`."""
    build_transforms(start.recipe, training=False)


@CHECKS.register("backend")
def check_backend(start: Start) -> None:
    """See :func:`maskrcnn.evaluation.backends.choose_backend`."""
    choose_backend(start.recipe.eval.backend)


def check_figures(recipe: Recipe, model: MaskRCNN | None) -> None:
    """The evaluations, where there are any, give ``eval.best_metric``, and ``eval.sigmas`` fit the model.

    Raises:
        UserError: they do not, or nothing is left to evaluate.
    """
    if recipe.data.val is None:
        return
    kinds = iou_types(recipe)
    check_metric(recipe.eval.best_metric, kinds, recipe.model.roi.max_detections)
    head = None if model is None else model.roi.keypoint_head
    if head is not None and "keypoints" in kinds:
        choose_sigmas(recipe.eval.sigmas, head.num_keypoints)


@CHECKS.register("best")
def check_best(start: Start) -> Iterator[str]:
    """``eval.best_metric`` is one that the evaluations will give.

    Raises:
        UserError: it is not, or nothing is left to evaluate.
    """
    check_figures(start.recipe, None)
    if doubt := best_metric_doubt(start.recipe, start.dataset):
        yield doubt


def best_metric_doubt(recipe: Recipe, val: Dataset) -> str:
    """That ``eval.best_metric`` is of objects of a size of which ``val`` has none; else empty.

    The figure is then never defined, and no checkpoint is kept as the best.
    """
    kind, _, name = (recipe.eval.best_metric or "").partition("/")
    name = name.partition("@")[0]
    if name[:2] not in ("AP", "AR") or name[2:] not in _AREAS:
        return ""
    low, high = _AREAS[name[2:]]
    truth = val.ground_truth()
    own = ~truth.crowds & np.isin(truth.image_ids[truth.images], val.image_ids)
    if kind == "keypoints":
        own &= truth.labelled > 0
    if any(low <= truth.area(i) <= high for i in np.flatnonzero(own).tolist()):
        return ""
    most = " and more" if high > 1e9 else f" to {high:g}"
    return (
        f"eval.best_metric is {recipe.eval.best_metric}, and {val.annotation_file} has no object of that size"
        f" ({low:g}{most} square pixels), so no checkpoint will be kept as the best; choose another, as"
        f" {kind}/AP"
    )


@CHECKS.register("judged_masks")
def check_masks_to_evaluate(start: Start) -> None:
    """Masks are evaluated against masks.

    Raises:
        DataError: the data have none, with what to set.
    """
    if "segm" not in iou_types(start.recipe) or start.dataset.ground_truth().has_masks:
        return
    raise DataError(
        "masks are to be evaluated (segm in eval.iou_types), but data.val brings none (data.val.masks is"
        " false): set data.val.masks to true, or eval.iou_types to [bbox]"
    )


@CHECKS.register("judged_keypoints")
def check_keypoints_to_evaluate(start: Start) -> Iterator[DataError]:
    """Keypoints are evaluated against keypoints of the same number, with a sigma each.

    Raises:
        DataError: the data have none, with what to set.
        UserError: ``eval.sigmas`` are missing or do not fit.
    """
    recipe, val = start.recipe, start.dataset
    head = recipe.model.keypoint_head
    if head is None or "keypoints" not in iou_types(recipe):
        return
    expected = getattr(start.model.roi.keypoint_head if start.model else head, "num_keypoints", None)
    fits = val.keypoints is None or expected in (None, len(val.keypoints))
    if val.keypoints is not None and not fits:
        yield DataError(
            f"{val.annotation_file}: instances have {plural(len(val.keypoints), 'keypoint')}, the model"
            f" {expected}; name data of the same keypoints as data.val, or leave keypoints out of"
            " eval.iou_types"
        )
    if expected is not None:
        choose_sigmas(recipe.eval.sigmas, expected)
    points = val.ground_truth().keypoints
    if fits and (points is None or not points.any()):
        yield DataError(
            f"{val.annotation_file}: no annotation has 'keypoints', which are to be evaluated; leave"
            " keypoints out of eval.iou_types, or name data that have them as data.val"
        )
