"""The recipe that a converted detector carries, and what of it no weights say."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn.config import dump
from maskrcnn.config.text import format_plain
from maskrcnn.convert.source import Family, Source
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig

_RECIPE = """\
# Made by `maskrcnn convert` from a checkpoint of {source}.
model:
{model}
data:
  train:
    type: coco
    images: "${{COCO_ROOT:-data/coco}}/train2017"
    annotations: "${{COCO_ROOT:-data/coco}}/annotations/{task}_train2017.json"
{train}
  val:
    type: coco
    images: "${{COCO_ROOT:-data/coco}}/val2017"
    annotations: "${{COCO_ROOT:-data/coco}}/annotations/{task}_val2017.json"
{val}
  train_transforms:
    - {{type: resize_shortest_edge, min_sizes: {sizes}, max_size: 1333, {resize}}}
    - {{type: hflip, p: 0.5}}
  eval_transforms:
    - {{type: resize_shortest_edge, min_sizes: [800], max_size: 1333, {resize}}}
eval: {{paste: {paste}, keypoint_offset: {offset}}}
"""

#: Values that decide training and results and that no tensor shows, by what they are about.
_ASSUMED: Mapping[str, Sequence[str]] = {
    "losses": ("rpn.beta", "rpn.normalize_by", "roi.beta", "roi.box_weights"),
    "sampling": ("rpn.samples", "roi.samples", "roi.positive_fraction", "roi.positive_iou"),
    "cascade": ("roi.cascade.ious", "roi.cascade.box_weights"),
    "proposals": (
        *("rpn.pre_nms_train", "rpn.post_nms_train", "rpn.pre_nms_test", "rpn.post_nms_test"),
        *("rpn.nms_threshold", "rpn.min_size"),
    ),
    "detections": ("roi.score_threshold", "roi.nms_threshold", "roi.max_detections"),
    "RoIs": ("roi_op.sampling_ratio", "roi_op.aligned", "mask_target"),
    "backbone": ("backbone.freeze_at",),
}


def recipe_text(model: MaskRCNNConfig, source: Source) -> str:
    """A recipe for a converted model, on COCO under ``$COCO_ROOT``, with the framework's ways of resizing."""
    has_keypoints, has_masks = model.keypoint_head is not None, model.mask_head is not None
    sizes = source.keypoint_train_sizes if has_keypoints else source.train_sizes
    kinds = {"masks": has_masks, "keypoints": has_keypoints}
    val: dict[str, Any] = {k: v for k, v in kinds.items() if v != (k == "masks")}  # what is not the default
    train = dict(val)
    if has_keypoints:
        val["keypoint_offset"] = train["keypoint_offset"] = source.keypoint_offset
        train["min_keypoints"] = source.min_keypoints
    return _RECIPE.format(
        source=source.name,
        model=textwrap.indent(dump(model), "  "),
        task="person_keypoints" if has_keypoints else "instances",
        train=_keys(train),
        val=_keys(val),
        sizes=list(sizes),
        resize=f"rounding: {source.rounding}, resample: {source.resample}",
        paste=source.paste,
        offset=source.keypoint_offset if has_keypoints else 0.5,
    )


def _keys(values: Mapping[str, Any]) -> str:
    return textwrap.indent("\n".join(f"{k}: {format_plain(v)}" for k, v in values.items()), "    ")


def assumed_lines(model: MaskRCNNConfig, family: Family) -> list[str]:
    """What was assumed because no weights say it, and where it was taken from, to be printed.

    Args:
        model: the converted one, with the user's overrides, which are marked.
    """
    ours = f", as the recipe {family.recipe} has it" if family.recipe is not None else ""
    lines = [f"assumed, since weights do not say it: what {family.theirs} sets{ours}"]
    for about, keys in _ASSUMED.items():
        found = {key: _value(model, key) for key in keys}
        told = {
            key: "" if _value(family.model, key) == value else " (as told)" for key, value in found.items()
        }
        text = ", ".join(f"{key} {_show(v)}{told[key]}" for key, v in found.items() if v is not None)
        if text:
            lines.append(f"  {about}: {text}")
    if model.keypoint_head is not None:
        scores = getattr(model.keypoint_head, "scores", "logit")
        lines.append(f"  keypoint scores: keypoint_head.scores {scores} (Detectron2 gives probability)")
    lines.append("  overrule by --set model.KEY=VALUE, as --set model.roi.beta=0.5")
    return lines + [f"  not taken over: {what}" for what in family.unsaid]


def _value(model: Any, path: str) -> Any:
    for part in path.split("."):
        model = getattr(model, part, None)
    return model


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else format_plain(value)
