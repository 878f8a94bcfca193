"""Whether the data have what the model trains on and what its evaluations compare."""

from __future__ import annotations

import numpy as np

from maskrcnn.data import Dataset
from maskrcnn.errors import DataError, few
from maskrcnn.evaluation.oks import choose_sigmas
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup

#: COCO's area ranges by the letter that a figure's name ends in, pixels, both ends included.
_AREAS = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}


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


def check_any_usable(recipe: Recipe, key: str, dataset: Dataset) -> None:
    """Where all annotations are faulty, nothing would train, and nothing could be evaluated.

    Args:
        key: the data set's in the config.

    Raises:
        DataError: it is so, with the kinds of faults.
    """
    rows = getattr(getattr(dataset, "index", None), "rows", None)  # of a CocoDataset
    faults = dataset.report.annotations
    if rows is None or len(rows) or not faults:
        return
    advice = "mend them, or name other data"
    if "no mask" in faults and recipe.model.mask_head is not None:
        then = "model.mask_head to null" if key == "data.train" else "eval.iou_types to [bbox]"
        advice = f"for boxes alone set {key}.masks to false, and {then}"
    kinds = few(f"{count} {kind}" for kind, count in faults.most_common())
    raise DataError(
        f"{key}: none of the {sum(faults.values())} annotations in {dataset.annotation_file} can be used"
        f" ({kinds}); {advice}"
    )


def check_masks_to_train_on(recipe: Recipe, train: Dataset) -> None:
    """A mask head learns from masks, and copy-paste cuts objects out by them.

    Raises:
        DataError: the data have none, with what to set.
    """
    for key, part, instead in (
        ("model.mask_head", recipe.model.mask_head, "for boxes alone model.mask_head"),
        ("data.copy_paste", recipe.data.copy_paste, "data.copy_paste"),
    ):
        if part is not None and not train.ground_truth().has_masks:
            raise DataError(
                f"{key} is set, but data.train brings no masks (data.train.masks is false): set"
                f" data.train.masks to true, or {instead} to null"
            )


def check_masks_to_evaluate(recipe: Recipe, val: Dataset) -> None:
    """Masks are evaluated against masks.

    Raises:
        DataError: the data have none, with what to set.
    """
    if "segm" not in setup.iou_types(recipe) or val.ground_truth().has_masks:
        return
    raise DataError(
        "masks are to be evaluated (segm in eval.iou_types), but data.val brings none (data.val.masks is"
        " false): set data.val.masks to true, or eval.iou_types to [bbox]"
    )


def check_keypoints_to_evaluate(recipe: Recipe, val: Dataset) -> None:
    """Keypoints are evaluated against keypoints of the same number, with a sigma each.

    Raises:
        DataError: the data have none, with what to set.
        UserError: ``eval.sigmas`` are missing or do not fit.
    """
    head = recipe.model.keypoint_head
    if head is None or "keypoints" not in setup.iou_types(recipe):
        return
    expected = getattr(head, "num_keypoints", None)
    if val.keypoints is not None and expected not in (None, len(val.keypoints)):
        raise DataError(
            f"{val.annotation_file}: instances have {len(val.keypoints)} keypoints, the model {expected};"
            " name data of the same keypoints as data.val, or leave keypoints out of eval.iou_types"
        )
    if expected is not None:
        choose_sigmas(recipe.eval.sigmas, expected)
    points = val.ground_truth().keypoints
    if points is None or not points.any():
        raise DataError(
            f"{val.annotation_file}: no annotation has 'keypoints', which are to be evaluated; leave"
            " keypoints out of eval.iou_types, or name data that have them as data.val"
        )
