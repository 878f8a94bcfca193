"""Our detectors in torchvision's names, for the architectures that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from maskrcnn.convert.source import RGB_MEAN, RGB_STD, task_of
from maskrcnn.convert.torchvision import SOURCE
from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.roi.box_head import ConvFCBoxHeadConfig, TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig

# Our name's beginning -> theirs.
_NAMES = (
    ("backbone.", "backbone.body."),
    *((f"neck.lateral.c{i + 2}.", f"backbone.fpn.inner_blocks.{i}.") for i in range(4)),
    *((f"neck.output.c{i + 2}.", f"backbone.fpn.layer_blocks.{i}.") for i in range(4)),
    ("rpn.head.conv.", "rpn.head.conv.0.0."),
    *((f"rpn.head.more.{i}.", f"rpn.head.conv.{i + 1}.0.") for i in range(9)),
    ("rpn.head.objectness.", "rpn.head.cls_logits."),
    ("rpn.head.deltas.", "rpn.head.bbox_pred."),
    ("roi.box_head.fc1.", "roi_heads.box_head.fc6."),
    ("roi.box_head.fc2.", "roi_heads.box_head.fc7."),
    ("roi.box_head.convs.", "roi_heads.box_head."),
    ("roi.box_head.predictor.logits.", "roi_heads.box_predictor.cls_score."),
    ("roi.box_head.predictor.deltas.", "roi_heads.box_predictor.bbox_pred."),
    ("roi.mask_head.convs.", "roi_heads.mask_head."),
    ("roi.mask_head.deconv.", "roi_heads.mask_predictor.conv5_mask."),
    ("roi.mask_head.logits.", "roi_heads.mask_predictor.mask_fcn_logits."),
    *((f"roi.keypoint_head.convs.{i}.0.", f"roi_heads.keypoint_head.{2 * i}.") for i in range(32)),
    ("roi.keypoint_head.deconv.", "roi_heads.keypoint_predictor.kps_score_lowres."),
)


@dataclass(frozen=True)
class Export:
    """A model for torchvision.

    state: its state dict, background first.
    call: how to make the model that loads it.
    arguments: those of the call that are not its defaults, but for the numbers of classes and keypoints.
    differences: settings of ours that its constructor cannot take over; they matter to training, or at the
        edge of rounding.
    """

    state: dict[str, Tensor]
    call: str
    arguments: dict[str, Any]
    differences: list[str]


def to_torchvision(state: Mapping[str, Tensor], model: MaskRCNNConfig) -> Export:
    """Translate our state dict, the inverse of :mod:`maskrcnn.convert.torchvision`.

    Pixel statistics other than torchvision's are given with the call.  The deltas and masks of background,
    which torchvision has and never uses, are 0.

    Raises:
        CheckpointError: torchvision has no such architecture; names the keys.
    """
    problems = _problems(model)
    if problems:
        raise CheckpointError(f"torchvision cannot express {'; '.join(problems)}")
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith("roi.box_head.fcs."):
            assert isinstance(model.box_head, ConvFCBoxHeadConfig)
            theirs = f"roi_heads.box_head.{model.box_head.convs + 1}.{name.rsplit('.', 1)[1]}"
        else:
            ours, begin = next((ours, theirs) for ours, theirs in _NAMES if name.startswith(ours))
            theirs = begin + name.removeprefix(ours)
        result[theirs] = _background_first(name, value).clone()
    labels = state["roi.box_head.predictor.logits.bias"].shape[0]
    arguments, fixed = _settings(model)
    return Export(result, _call(model, labels, arguments), arguments, fixed)


def _background_first(name: str, value: Tensor) -> Tensor:
    if ".predictor.logits." in name:
        return torch.cat((value[-1:], value[:-1]))
    rows = {"roi.box_head.predictor.deltas": 4, "roi.mask_head.logits": 1}.get(name.rsplit(".", 1)[0], 0)
    return torch.cat((value.new_zeros(rows, *value.shape[1:]), value)) if rows else value


def _problems(model: MaskRCNNConfig) -> list[str]:
    """The keys that torchvision has no counterpart for, in words."""
    backbone, neck, box, mask = model.backbone, model.neck, model.box_head, model.mask_head
    found = []
    if not isinstance(backbone, ResNetConfig) or backbone.norm == "gn" or backbone.width != 64:
        found.append("model.backbone (it has ResNets of full width with batch normalisation)")
    elif backbone.stride_in_1x1 or backbone.dilated_c5:
        found.append("model.backbone.stride_in_1x1 or dilated_c5")
    if not isinstance(neck, FPNConfig):
        found.append("model.neck (only fpn)")
    if model.rpn is None or model.rpn.width is not None:
        found.append("model.rpn: null, or its width")
    elif SOURCE.pyramid.rpn is not None and model.rpn.anchors != SOURCE.pyramid.rpn.anchors:
        found.append("model.rpn.anchors (it has FPN's, rounded: true, true_stride: false)")
    if model.roi.cascade is not None or model.roi_trunk is not None:
        found.append("model.roi.cascade or model.roi_trunk")
    second = isinstance(box, ConvFCBoxHeadConfig)
    norms = [
        getattr(part, "norm", None) for part in (neck, mask, *([box] if second else [])) if part is not None
    ]
    if "gn" in norms:
        found.append("norm: gn")
    elif any((norm is not None) != second for norm in norms) or (model.rpn and model.rpn.convs != 1 + second):
        found.append(
            "a mix of its versions 1 (two_fc, no norm in neck and heads, model.rpn.convs: 1) and 2 (conv_fc,"
            " norm in all of them, model.rpn.convs: 2)"
        )
    if not isinstance(box, (TwoFCBoxHeadConfig, ConvFCBoxHeadConfig)) or box.class_agnostic:
        found.append("model.box_head (it has two_fc and conv_fc, with deltas a class)")
    elif isinstance(box, ConvFCBoxHeadConfig) and (box.fcs != 1 or not box.convs):
        found.append("model.box_head.fcs other than 1, or convs: 0")
    if mask is not None and (
        not isinstance(mask, FCNMaskHeadConfig) or mask.class_agnostic or mask.loss != "sigmoid"
    ):
        found.append("model.mask_head (it has fcn with a sigmoid mask a class)")
    if mask is not None and model.keypoint_head is not None:
        found.append("masks and keypoints in one model")
    if model.heads:
        found.append("model.heads (it has none but masks and keypoints)")
    if model.roi_op != SOURCE.pyramid.roi_op:
        found.append("model.roi_op (it has roi_align with aligned: false, sampling_ratio: 2)")
    return found


# Where a key of ours is an argument of its constructor; all others differ by name alone.
_RPN = {
    "pre_nms_train": "rpn_pre_nms_top_n_train",
    "pre_nms_test": "rpn_pre_nms_top_n_test",
    "post_nms_train": "rpn_post_nms_top_n_train",
    "post_nms_test": "rpn_post_nms_top_n_test",
    "nms_threshold": "rpn_nms_thresh",
    "positive_iou": "rpn_fg_iou_thresh",
    "negative_iou": "rpn_bg_iou_thresh",
    "samples": "rpn_batch_size_per_image",
    "positive_fraction": "rpn_positive_fraction",
    "min_score": "rpn_score_thresh",
}
_ROI = {
    "score_threshold": "box_score_thresh",
    "nms_threshold": "box_nms_thresh",
    "max_detections": "box_detections_per_img",
    "positive_iou": "box_fg_iou_thresh",
    "negative_iou": "box_bg_iou_thresh",
    "samples": "box_batch_size_per_image",
    "positive_fraction": "box_positive_fraction",
    "box_weights": "bbox_reg_weights",
}


def _settings(model: MaskRCNNConfig) -> tuple[dict[str, Any], list[str]]:
    """Arguments for what its constructor takes over, and words for what it has fixed otherwise."""
    arguments: dict[str, Any] = {}
    fixed = []
    usual = SOURCE.pyramid
    for part, own, theirs, names in (
        ("rpn", model.rpn, usual.rpn, _RPN),
        ("roi", model.roi, usual.roi, _ROI),
    ):
        for item in fields(own):  # type: ignore[arg-type]
            value, there = getattr(own, item.name), getattr(theirs, item.name)
            if value == there or item.name in ("convs", "anchors"):
                continue
            if item.name in names:
                arguments[names[item.name]] = value
            else:
                fixed.append(f"model.{part}.{item.name} is {value}, there {there}")
    mean, std = model.preprocess.mean, model.preprocess.std
    if (mean, std) != (RGB_MEAN, RGB_STD):
        arguments["image_mean"] = [v / 255 for v in mean]
        arguments["image_std"] = [v / 255 for v in std]
    return arguments, fixed


def _call(model: MaskRCNNConfig, labels: int, arguments: Mapping[str, Any]) -> str:
    """Python that makes the model."""
    assert isinstance(model.backbone, ResNetConfig)
    kind = task_of(model)
    keys = {"num_classes": labels}
    if model.keypoint_head is not None:
        keys["num_keypoints"] = getattr(model.keypoint_head, "num_keypoints", 17)
    more = "".join(f", {key}={value!r}" for key, value in {**keys, **arguments}.items())
    b = model.backbone
    name = f"resnet{b.depth}"
    if b.groups > 1:
        name = f"resnext{b.depth}_{b.groups}x{b.width_per_group}d"
    elif b.width_per_group != 64:
        name = f"wide_resnet{b.depth}_{b.width_per_group // 64}"
    second = isinstance(model.box_head, ConvFCBoxHeadConfig)
    if name == "resnet50":
        end = "_v2" if second else ""
        return f"{kind}rcnn_resnet50_fpn{end}(weights=None, weights_backbone=None{more})"
    heads = ", rpn_head=..., box_head=..., mask_head=... as in its _v2 builders" if second else ""
    return f'{kind.capitalize()}RCNN(resnet_fpn_backbone(backbone_name="{name}", weights=None){more}{heads})'
