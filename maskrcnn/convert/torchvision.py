"""torchvision's detectors with a ResNet-FPN: Mask, Faster and Keypoint R-CNN, versions 1 and 2.

torchvision counts background as class 0; here classes are 0 .. K - 1 and background is K.  So the row of
background moves to the end of the logits, and its (never trained) deltas and masks are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from maskrcnn.convert.source import (
    NORM,
    RGB_MEAN,
    RGB_STD,
    Family,
    File,
    Reading,
    Source,
    residual_rules,
    task_of,
)
from maskrcnn.layers import RoIAlign
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.modeling.rpn.rpn import RPNConfig

#: COCO's 80 categories among torchvision's 90 classes (its labels 1 .. 90, minus 1); the other ten never
#: occur in the data.
COCO_CLASSES = tuple(i - 1 for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))

#: Optional parts are names of older torchvision versions.
RULES = (
    *residual_rules(r"backbone\.body\."),
    (rf"backbone\.fpn\.inner_blocks\.([0-3])\.([01])\.{NORM}", r"neck.lateral.c<1+2>.\2.\3"),
    (rf"backbone\.fpn\.layer_blocks\.([0-3])\.([01])\.{NORM}", r"neck.output.c<1+2>.\2.\3"),
    (r"backbone\.fpn\.inner_blocks\.([0-3])\.(weight|bias)", r"neck.lateral.c<1+2>.0.\2"),
    (r"backbone\.fpn\.layer_blocks\.([0-3])\.(weight|bias)", r"neck.output.c<1+2>.0.\2"),
    (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)", r"rpn.head.conv.\1"),
    (r"rpn\.head\.conv\.([1-9])\.0\.(weight|bias)", r"rpn.head.more.<1-1>.\2"),
    (r"rpn\.head\.cls_logits\.(weight|bias)", r"rpn.head.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(weight|bias)", r"rpn.head.deltas.\1"),
    (r"roi_heads\.box_head\.fc([67])\.(weight|bias)", r"roi.box_head.fcs.<1-6>.\2"),
    (rf"roi_heads\.box_head\.([0-3])\.([01])\.{NORM}", r"roi.box_head.convs.\1.\2.\3"),
    (r"roi_heads\.box_head\.5\.(weight|bias)", r"roi.box_head.fcs.0.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(weight|bias)", r"roi.box_head.predictor.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)", r"roi.box_head.predictor.deltas.\1"),
    (rf"roi_heads\.mask_head\.(\d)\.([01])\.{NORM}", r"roi.mask_head.convs.\1.\2.\3"),
    (r"roi_heads\.mask_head\.mask_fcn([1-9])\.(weight|bias)", r"roi.mask_head.convs.<1-1>.0.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(weight|bias)", r"roi.mask_head.deconv.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(weight|bias)", r"roi.mask_head.logits.\1"),
    *(
        (rf"roi_heads\.keypoint_head\.{2 * i}\.(weight|bias)", rf"roi.keypoint_head.convs.{i}.0.\1")
        for i in range(16)
    ),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(weight|bias)", r"roi.keypoint_head.deconv.\1"),
)


def _read(file: File, state: Mapping[str, Tensor], bgr: bool | None) -> Reading:
    return Reading(bgr=bool(bgr), mean=RGB_MEAN, std=RGB_STD, stride_in_1x1=False, why="torchvision's own")


_MODEL = MaskRCNNConfig(
    rpn=RPNConfig(
        anchors=AnchorConfig(rounded=True, true_stride=False),
        beta=1 / 9,
        normalize_by="sampled",
        post_nms_train=2000,
        min_size=1e-3,
        rank_by="probability",
    ),
    roi=RoIHeadsConfig(beta=1 / 9, min_size=1e-2, level_rule="torchvision"),
    roi_op=RoIAlign(sampling_ratio=2, aligned=False),
    mask_target="bitmask",
)


def family(model: MaskRCNNConfig) -> Family:
    """All its detectors train with the same losses and thresholds."""
    kind = task_of(model)
    version = "_v2" if model.rpn is not None and model.rpn.convs > 1 else ""
    theirs = f"models.detection.{kind}rcnn_resnet50_fpn{version}"
    return Family(model, theirs, f"coco/{kind}_rcnn_r50_fpn_torchvision{version}")


SOURCE = Source(
    name="torchvision",
    marks=(r"backbone\.body\.conv1\.weight", r"roi_heads\.box_predictor\.cls_score\.weight"),
    rules=RULES,
    left_out=(),
    background="first",
    read=_read,
    pyramid=_MODEL,
    single=_MODEL,
    family=family,
    counted="bn",
    rounding="floor",
    paste="torchvision",
    keypoint_offset=0.0,
    min_keypoints=10,
)
