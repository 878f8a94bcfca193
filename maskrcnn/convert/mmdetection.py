"""mmdetection's FPN detectors of versions 2 and 3: Faster and Mask R-CNN, and Cascade R-CNN without masks.

Both versions have the same names and classes as ours, background last.  The style of its ResNet ("pytorch" or
"caffe") and its pixel statistics stand in the config that its files carry as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from maskrcnn.convert.detectron2 import caffe_style
from maskrcnn.convert.source import (
    NORM,
    RGB_MEAN,
    RGB_STD,
    Family,
    File,
    Reading,
    Rule,
    Source,
    Triple,
    residual_rules,
    task_of,
    with_rpn,
)
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.rpn.rpn import RPNConfig

_NORM = rf"(?:bn|gn)\.{NORM}"
_BOX = r"roi_head\.bbox_head\."

RULES: tuple[Rule, ...] = (
    *residual_rules(r"backbone\."),
    (r"backbone\.gn1\.(weight|bias)", r"backbone.bn1.\1"),
    (r"backbone\.(layer[1-4]\.\d+)\.gn(\d)\.(weight|bias)", r"backbone.\1.bn\2.\3"),
    (r"neck\.lateral_convs\.([0-3])\.conv\.(weight|bias)", r"neck.lateral.c<1+2>.0.\2"),
    (rf"neck\.lateral_convs\.([0-3])\.{_NORM}", r"neck.lateral.c<1+2>.1.\2"),
    (r"neck\.fpn_convs\.([0-3])\.conv\.(weight|bias)", r"neck.output.c<1+2>.0.\2"),
    (rf"neck\.fpn_convs\.([0-3])\.{_NORM}", r"neck.output.c<1+2>.1.\2"),
    (r"rpn_head\.rpn_conv\.(weight|bias)", r"rpn.head.conv.\1"),
    (r"rpn_head\.rpn_conv\.0\.conv\.(weight|bias)", r"rpn.head.conv.\1"),
    (r"rpn_head\.rpn_conv\.([1-9])\.conv\.(weight|bias)", r"rpn.head.more.<1-1>.\2"),
    (r"rpn_head\.rpn_cls\.(weight|bias)", r"rpn.head.objectness.\1"),
    (r"rpn_head\.rpn_reg\.(weight|bias)", r"rpn.head.deltas.\1"),
    (rf"{_BOX}shared_fcs\.(\d)\.(weight|bias)", r"roi.box_head.fcs.\1.\2"),
    (rf"{_BOX}shared_convs\.(\d)\.conv\.(weight|bias)", r"roi.box_head.convs.\1.0.\2"),
    (rf"{_BOX}shared_convs\.(\d)\.{_NORM}", r"roi.box_head.convs.\1.1.\2"),
    (rf"{_BOX}fc_cls\.(weight|bias)", r"roi.box_head.predictor.logits.\1"),
    (rf"{_BOX}fc_reg\.(weight|bias)", r"roi.box_head.predictor.deltas.\1"),
    (rf"{_BOX}(\d)\.shared_fcs\.(\d)\.(weight|bias)", r"roi.box_heads.\1.fcs.\2.\3"),
    (rf"{_BOX}(\d)\.fc_cls\.(weight|bias)", r"roi.box_heads.\1.predictor.logits.\2"),
    (rf"{_BOX}(\d)\.fc_reg\.(weight|bias)", r"roi.box_heads.\1.predictor.deltas.\2"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(weight|bias)", r"roi.mask_head.convs.\1.0.\2"),
    (rf"roi_head\.mask_head\.convs\.(\d)\.{_NORM}", r"roi.mask_head.convs.\1.1.\2"),
    (r"roi_head\.mask_head\.upsample\.(weight|bias)", r"roi.mask_head.deconv.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(weight|bias)", r"roi.mask_head.logits.\1"),
)


def config_text(meta: Mapping[str, Any]) -> str:
    """The config that a file carries: ``meta["config"]`` of version 2, ``meta["cfg"]`` of version 3."""
    inner = _inner(meta)
    found = inner.get("cfg") or inner.get("config")
    return found if isinstance(found, str) else ""


def class_names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a file names, or nothing."""
    inner = _inner(meta)
    data = inner.get("dataset_meta")
    found = inner.get("CLASSES")
    if found is None and isinstance(data, Mapping):
        found = data.get("CLASSES") or data.get("classes")
    if isinstance(found, (list, tuple)) and all(isinstance(name, str) for name in found):
        return tuple(found)
    return ()


def _inner(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = meta.get("meta")
    return inner if isinstance(inner, Mapping) else {}


def _numbers(text: str, key: str) -> Triple | None:
    """The three numbers of ``key=[..]`` in a config."""
    number = r"\s*([\d.]+)\s*"
    match = re.search(rf"\b{key}=\[{number},{number},{number},?\s*\]", text)
    return None if match is None else (float(match[1]), float(match[2]), float(match[3]))


def _read(file: File, state: Mapping[str, Tensor], bgr: bool | None) -> Reading:
    """The config's ``style``, ``mean``, ``std`` and ``to_rgb`` (version 3: ``bgr_to_rgb``); else what the
    weights show: MSRA's ResNets have frozen means of 0.
    """
    text = config_text(file.meta)
    caffe = caffe_style(state)
    mean, std = _numbers(text, "mean"), _numbers(text, "std")
    if mean is not None and std is not None:
        style = re.search(r"style='(\w+)'", text)
        turned = re.search(r"(?:bgr_)?to_rgb=(True|False)", text)
        is_bgr = turned is not None and turned[1] == "False"
        if bgr is not None:
            is_bgr = bgr
        return Reading(is_bgr, mean, std, bool(style and style[1] == "caffe"), "the config in the file")
    is_bgr = caffe if bgr is None else bgr
    if is_bgr:
        return Reading(True, RGB_MEAN[::-1], (1.0, 1.0, 1.0), caffe, "frozen means of 0: its style 'caffe'")
    return Reading(False, RGB_MEAN, RGB_STD, caffe, "its style 'pytorch', the usual one")


_MODEL = MaskRCNNConfig(
    rpn=RPNConfig(normalize_by="sampled", pre_nms_test=1000, beta=0.0), roi=RoIHeadsConfig(beta=0.0)
)


def family(model: MaskRCNNConfig) -> Family:
    """Its cascades train with smooth L1, on more proposals, and weigh later stages less."""
    if model.roi.cascade is None:
        return Family(model, f"configs/_base_/models/{task_of(model)}-rcnn_r50_fpn.py")
    stds = ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
    cascade = replace(model.roi.cascade, box_weights=tuple((1 / a, 1 / a, 1 / b, 1 / b) for a, b in stds))
    model = replace(model, roi=replace(model.roi, beta=1.0, cascade=cascade))
    model = with_rpn(model, beta=1 / 9, post_nms_train=2000)
    unsaid = "stage_loss_weights of 1, 0.5 and 0.25 have no key here: all stages count 1 in training"
    return Family(model, "configs/_base_/models/cascade-rcnn_r50_fpn.py", None, (unsaid,))


SOURCE = Source(
    name="mmdetection",
    marks=(
        r"backbone\.conv1\.weight",
        r"rpn_head\.rpn_cls\.weight",
        r"roi_head\.bbox_head\.(\d\.)?fc_cls\.weight",
    ),
    rules=RULES,
    left_out=((r"data_preprocessor\.(mean|std)", "pixel statistics, which the model's config holds"),),
    background="last",
    read=_read,
    pyramid=_MODEL,
    single=_MODEL,
    family=family,
    counted="frozen_bn",
)
