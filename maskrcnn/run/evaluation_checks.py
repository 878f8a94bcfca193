"""Whether the recipe's evaluations can be had, and the data have what they compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maskrcnn.config.registry import did_you_mean
from maskrcnn.data import Dataset
from maskrcnn.errors import DataError, UserError, plural
from maskrcnn.evaluation.backends import choose_backend
from maskrcnn.evaluation.eval_result import check_metric
from maskrcnn.evaluation.oks import choose_sigmas
from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig
from maskrcnn.recipe import Recipe
from maskrcnn.run.preflight import CHECKS, Start
from maskrcnn.run.setup import build_transforms, iou_types
from maskrcnn.structures.ground_truth import IouType

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
    _check_best(recipe, kinds)
    head = None if model is None else model.roi.keypoint_head
    if head is not None and "keypoints" in kinds:
        choose_sigmas(recipe.eval.sigmas, head.num_keypoints)


def _check_best(recipe: Recipe, kinds: Sequence[IouType]) -> None:
    """
    Raises:
        UserError: the evaluations do not give ``eval.best_metric``.
    """
    wanted = recipe.eval.best_metric or ""
    plain = wanted.removeprefix("ema/")
    if plain != wanted and recipe.solver.ema is None:
        raise UserError(
            f"eval.best_metric is {wanted}, of the average of the weights, and solver.ema is null, so there"
            f" is none; set solver.ema to {{}}, or eval.best_metric to {plain}"
        )
    if not plain.startswith("val/"):
        check_metric(plain or None, kinds, recipe.model.roi.max_detections)
        return
    if not recipe.eval.losses:
        raise UserError(
            f"eval.best_metric is {wanted}, and eval.losses is 0, so it is never computed; set eval.losses"
            " to a number of images, as 100"
        )
    known = {"val/loss", *(f"val/{name}" for name in loss_names(recipe.model))}
    if plain not in known and not recipe.model.heads:  # whose losses have names of their own
        raise UserError(
            f"eval.best_metric: this model has no loss {wanted[:60]!r}.{did_you_mean(plain, known)}"
        )


def loss_names(model: MaskRCNNConfig) -> list[str]:
    """Of a model without heads of one's own, as ``losses()`` returns them."""
    stages = [""] if model.roi.cascade is None else [f"_stage{i + 1}" for i in range(model.roi.num_stages)]
    names = [] if model.rpn is None else ["loss_rpn_cls", "loss_rpn_box"]
    names += [f"loss_box_{kind}{stage}" for stage in stages for kind in ("cls", "reg")]
    names += [] if model.mask_head is None else ["loss_mask"]
    return names + ([] if model.keypoint_head is None else ["loss_keypoint"])


@CHECKS.register("losses")
def check_losses(start: Start) -> Iterator[DataError]:
    """Where losses of the evaluation data are wanted, they have what the heads learn from.

    Raises:
        DataError: they do not, with what to set.
    """
    recipe, val = start.recipe, start.dataset
    if not recipe.eval.losses:
        return
    if recipe.model.mask_head is not None and not val.ground_truth().has_masks:
        yield DataError(
            "eval.losses is set, and data.val brings no masks for the loss of model.mask_head"
            " (data.val.masks is false): set data.val.masks to true, or eval.losses to 0"
        )
    if recipe.model.keypoint_head is not None and val.keypoints is None:
        yield DataError(
            "eval.losses is set, and data.val brings no keypoints for the loss of model.keypoint_head: set"
            " data.val.keypoints to true, or eval.losses to 0"
        )


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
    kind, _, name = (recipe.eval.best_metric or "").removeprefix("ema/").partition("/")
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
