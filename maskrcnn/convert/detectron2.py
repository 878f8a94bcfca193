"""Detectron2's detectors: FPN, C4 and DC5; Faster, Mask, Keypoint and Cascade R-CNN.

Names and defaults are those of its configs ``COCO-*`` and ``Misc``.  Classes lie as ours, background last.
What its weights do not say (the order of colours, the pixel statistics, where a bottleneck's stride is) comes
from where its ResNet was trained; see :func:`_read`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from maskrcnn.convert.foreign_anchors import from_stored, stored_anchors
from maskrcnn.convert.source import (
    MULTI_SCALE,
    NORM,
    RGB_MEAN,
    RGB_STD,
    Family,
    File,
    Reading,
    Rule,
    Source,
    Triple,
    with_rpn,
)
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.preprocess import PreprocessConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig


def backbone_rules(theirs: str, stages: str, ours: str) -> tuple[Rule, ...]:
    """Rules for a ResNet below ``theirs`` (a pattern): stages 2 .. 5 are our layers 1 .. 4."""
    return (
        (rf"{theirs}stem\.conv1\.weight", rf"{ours}conv1.weight"),
        (rf"{theirs}stem\.conv1\.norm\.{NORM}", rf"{ours}bn1.\1"),
        (rf"{theirs}res({stages})\.(\d+)\.conv(\d)\.weight", rf"{ours}layer<1-1>.\2.conv\3.weight"),
        (rf"{theirs}res({stages})\.(\d+)\.conv(\d)\.norm\.{NORM}", rf"{ours}layer<1-1>.\2.bn\3.\4"),
        (rf"{theirs}res({stages})\.(\d+)\.shortcut\.weight", rf"{ours}layer<1-1>.\2.downsample.0.weight"),
        (rf"{theirs}res({stages})\.(\d+)\.shortcut\.norm\.{NORM}", rf"{ours}layer<1-1>.\2.downsample.1.\3"),
    )


RULES: tuple[Rule, ...] = (
    *backbone_rules(r"backbone\.(?:bottom_up\.)?", "[2-5]", "backbone."),
    *backbone_rules(r"roi_heads\.", "5", "roi.trunk."),
    (r"backbone\.fpn_lateral([2-5])\.(weight|bias)", r"neck.lateral.c\1.0.\2"),
    (rf"backbone\.fpn_lateral([2-5])\.norm\.{NORM}", r"neck.lateral.c\1.1.\2"),
    (r"backbone\.fpn_output([2-5])\.(weight|bias)", r"neck.output.c\1.0.\2"),
    (rf"backbone\.fpn_output([2-5])\.norm\.{NORM}", r"neck.output.c\1.1.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(?:conv0\.)?(weight|bias)", r"rpn.head.conv.\1"),
    (r"proposal_generator\.rpn_head\.conv\.conv([1-9])\.(weight|bias)", r"rpn.head.more.<1-1>.\2"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)", r"rpn.head.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)", r"rpn.head.deltas.\1"),
    (r"roi_heads\.box_head\.fc(\d)\.(weight|bias)", r"roi.box_head.fcs.<1-1>.\2"),
    (r"roi_heads\.box_head\.conv(\d)\.(weight|bias)", r"roi.box_head.convs.<1-1>.0.\2"),
    (rf"roi_heads\.box_head\.conv(\d)\.norm\.{NORM}", r"roi.box_head.convs.<1-1>.1.\2"),
    (r"roi_heads\.box_head\.(\d)\.fc(\d)\.(weight|bias)", r"roi.box_heads.\1.fcs.<2-1>.\3"),
    (r"roi_heads\.box_head\.(\d)\.conv(\d)\.(weight|bias)", r"roi.box_heads.\1.convs.<2-1>.0.\3"),
    (rf"roi_heads\.box_head\.(\d)\.conv(\d)\.norm\.{NORM}", r"roi.box_heads.\1.convs.<2-1>.1.\3"),
    (r"roi_heads\.box_predictor\.cls_score\.(weight|bias)", r"roi.box_head.predictor.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)", r"roi.box_head.predictor.deltas.\1"),
    (r"roi_heads\.box_predictor\.(\d)\.cls_score\.(weight|bias)", r"roi.box_heads.\1.predictor.logits.\2"),
    (r"roi_heads\.box_predictor\.(\d)\.bbox_pred\.(weight|bias)", r"roi.box_heads.\1.predictor.deltas.\2"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)", r"roi.mask_head.convs.<1-1>.0.\2"),
    (rf"roi_heads\.mask_head\.mask_fcn(\d)\.norm\.{NORM}", r"roi.mask_head.convs.<1-1>.1.\2"),
    (r"roi_heads\.mask_head\.deconv\.(weight|bias)", r"roi.mask_head.deconv.\1"),
    (r"roi_heads\.mask_head\.predictor\.(weight|bias)", r"roi.mask_head.logits.\1"),
    (r"roi_heads\.keypoint_head\.conv_fcn(\d)\.(weight|bias)", r"roi.keypoint_head.convs.<1-1>.0.\2"),
    (r"roi_heads\.keypoint_head\.score_lowres\.(weight|bias)", r"roi.keypoint_head.deconv.\1"),
)

LEFT_OUT = (
    (r"pixel_(mean|std)", "pixel statistics, which the model's config holds"),
    (r".*anchor_generator\.cell_anchors\.\d+", "anchors, which the model's config holds"),
)

# What its ResNets were trained on, in the order B, G, R.
BGR_MEAN: Triple = (103.53, 116.28, 123.675)
BGR_STD: Triple = (57.375, 57.12, 58.395)


def caffe_style(state: Mapping[str, Tensor]) -> bool:
    """Whether the ResNet is one of MSRA's: their means and variances lie inside the weights."""
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    return bool(means) and not any(bool(value.any()) for value in means)


def _read(file: File, state: Mapping[str, Tensor], bgr: bool | None) -> Reading:
    """What Detectron2's configs set for the ResNet that the weights show.

    MSRA's ResNets (the stem's means, frozen, are 0): B, G, R, no standard deviation, stride in the 1x1.
    FAIR's ResNeXt: B, G, R with it, stride in the 3x3.  Other frozen ones are torchvision's.  GN: as FAIR
    trained it.  With batch statistics of its own: from scratch, B, G, R with deviation, stride in the 3x3;
    but the new baselines, whose RPN has two convolutions, keep MSRA's ways.  Statistics that the file holds
    are taken from it; a mean that rises is one of B, G, R.
    """
    counted = any(name.startswith("backbone.") and name.endswith("num_batches_tracked") for name in state)
    inner = state.get("backbone.layer1.0.conv2.weight")
    grouped = inner is not None and inner.shape[0] != inner.shape[1]
    frozen = "backbone.bn1.running_var" in state
    stem = state.get("backbone.bn1.running_mean")
    if stem is not None and not bool(stem.any()) and not grouped:
        found = Reading(True, BGR_MEAN, (1.0, 1.0, 1.0), True, "frozen means of 0: MSRA's ResNet")
    elif grouped:
        found = Reading(True, BGR_MEAN, BGR_STD, False, "a ResNeXt: FAIR's")
    elif not frozen:
        found = Reading(True, BGR_MEAN, (1.0, 1.0, 1.0), False, "group normalisation: FAIR's ResNet")
    elif counted and "rpn.head.more.0.weight" in state:
        why = "batch statistics of its own, two convolutions in the RPN: the new baselines"
        found = Reading(True, BGR_MEAN, (1.0, 1.0, 1.0), True, why)
    elif counted:
        found = Reading(True, BGR_MEAN, BGR_STD, False, "batch statistics of its own: trained from scratch")
    else:
        found = Reading(False, RGB_MEAN, RGB_STD, False, "frozen means other than 0: torchvision's ResNet")
    mean, std = _stored(file, "pixel_mean"), _stored(file, "pixel_std")
    if mean is not None and std is not None:
        found = replace(found, bgr=mean[0] < mean[2], mean=mean, std=std, why="the file's pixel_mean")
    if bgr is not None and bgr != found.bgr:
        found = replace(found, bgr=bgr, why="as told")
        if mean is None:  # the usual statistics, in the other order
            found = replace(found, mean=found.mean[::-1], std=found.std[::-1])
    cells = stored_anchors(file.state, r"proposal_generator\.")
    usual = AnchorConfig() if any(name.startswith("neck.") for name in state) else _ONE_LEVEL
    return replace(found, anchors=from_stored(cells, usual))


def _stored(file: File, name: str) -> Triple | None:
    value = file.state.get(name)
    if value is None or value.numel() != 3:
        return None
    a, b, c = value.flatten().tolist()
    return a, b, c


_ONE_LEVEL = AnchorConfig(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),))
_PYRAMID = MaskRCNNConfig()  # our defaults are Detectron2's
_SINGLE = replace(
    with_rpn(_PYRAMID, anchors=_ONE_LEVEL, pre_nms_train=12000, pre_nms_test=6000, post_nms_train=2000),
    preprocess=PreprocessConfig(size_divisor=1),
)


def family(model: MaskRCNNConfig) -> Family:
    """COCO-Keypoints and Misc/cascade train on more proposals and another loss than Base-RCNN-FPN."""
    form = "fpn" if model.neck is not None else "dc5" if model.roi_trunk is None else "c4"
    norm = getattr(model.backbone, "norm", "frozen_bn")
    kind = "faster" if model.mask_head is None else "mask"
    task = "Detection" if model.mask_head is None else "InstanceSegmentation"
    theirs, recipe = f"COCO-{task}/{kind}_rcnn_R_50_{form.upper()}_3x", f"coco/{kind}_rcnn_r50_{form}_3x"
    if norm == "gn":
        theirs, recipe = "Misc/mask_rcnn_R_50_FPN_3x_gn", "coco/mask_rcnn_r50_fpn_gn_3x"
    if norm == "bn":
        theirs, recipe = "Misc/mask_rcnn_R_50_FPN_3x_syncbn", "coco/mask_rcnn_r50_fpn_sync_bn_3x"
        if model.rpn is not None and model.rpn.convs > 1:
            theirs, recipe = "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ", "coco/mask_rcnn_r50_fpn_lsj_100ep"
    if model.roi.cascade is not None:
        theirs, recipe = "Misc/cascade_mask_rcnn_R_50_FPN_3x", "coco/cascade_mask_rcnn_r50_fpn_3x"
        model = with_rpn(model, post_nms_train=2000)
    if model.keypoint_head is not None:
        theirs, recipe = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x", "coco/keypoint_rcnn_r50_fpn_3x"
        model = with_rpn(replace(model, roi=replace(model.roi, beta=0.5)), post_nms_train=1500)
    return Family(model, f"configs/{theirs}", recipe)


SOURCE = Source(
    name="detectron2",
    marks=(
        r"backbone\.(bottom_up\.)?stem\.conv1\.weight",
        r"roi_heads\.box_predictor\.(0\.)?cls_score\.weight",
    ),
    rules=RULES,
    left_out=LEFT_OUT,
    background="last",
    read=_read,
    pyramid=_PYRAMID,
    single=_SINGLE,
    family=family,
    counted="bn",
    resample="antialias",
    train_sizes=MULTI_SCALE,
)
