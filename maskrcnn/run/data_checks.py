"""Whether the data have what the model trains on."""

from __future__ import annotations

from maskrcnn.errors import DataError, few, plural
from maskrcnn.run.preflight import CHECKS, Start


@CHECKS.register("usable")
def check_any_usable(start: Start) -> None:
    """Where all annotations are faulty, nothing would train, and nothing could be evaluated.

    Raises:
        DataError: it is so, with the kinds of faults.
    """
    key, dataset = start.key, start.dataset
    rows = getattr(getattr(dataset, "index", None), "rows", None)  # of a CocoDataset
    faults = dataset.report.annotations
    if rows is None or len(rows) or not faults:
        return
    advice = "mend them, or name other data"
    if "no mask" in faults and start.recipe.model.mask_head is not None:
        then = "model.mask_head to null" if key == "data.train" else "eval.iou_types to [bbox]"
        advice = f"for boxes alone set {key}.masks to false, and {then}"
    kinds = few(f"{count} {kind}" for kind, count in faults.most_common())
    raise DataError(
        f"{key}: none of {plural(sum(faults.values()), 'annotation')} in {dataset.annotation_file} can"
        f" be used ({kinds}); {advice}"
    )


@CHECKS.register("masks")
def check_masks(start: Start) -> None:
    """A mask head learns from masks, and copy-paste cuts objects out by them.

    Raises:
        DataError: the data have none, with what to set.
    """
    recipe = start.recipe
    for key, part, instead in (
        ("model.mask_head", recipe.model.mask_head, "for boxes alone model.mask_head"),
        ("data.copy_paste", recipe.data.copy_paste, "data.copy_paste"),
    ):
        if part is not None and not start.dataset.ground_truth().has_masks:
            raise DataError(
                f"{key} is set, but data.train brings no masks (data.train.masks is false): set"
                f" data.train.masks to true, or {instead} to null"
            )


@CHECKS.register("keypoints")
def check_keypoints(start: Start) -> None:
    """A keypoint head trains on keypoints of its own number.

    Raises:
        DataError: the data have none, or another number.
    """
    dataset = start.dataset
    head = None if start.model is None else start.model.roi.keypoint_head
    if head is None:
        return
    if dataset.keypoints is None:
        raise DataError(
            "model.keypoint_head is set, but data.train brings no keypoints: set data.train.keypoints to true"
        )
    if len(dataset.keypoints) != head.num_keypoints:
        raise DataError(
            f"{dataset.annotation_file}: instances have {plural(len(dataset.keypoints), 'keypoint')}, the"
            f" model {head.num_keypoints}; set model.keypoint_head.num_keypoints to {len(dataset.keypoints)}"
        )
