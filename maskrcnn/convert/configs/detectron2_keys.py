"""Detectron2's keys in ours: what its default config has, and what each value of a file means here.

Defaults and meanings are those of its ``detectron2/config/defaults.py`` and the modules that it configures.
"""

from __future__ import annotations

from typing import Any

from maskrcnn.convert.configs.detectron2_defaults import FIXED
from maskrcnn.convert.configs.detectron2_training import convert_data, convert_training
from maskrcnn.convert.configs.foreign_keys import Converted, ForeignConfig

_NORMS = {
    "": None,
    "FrozenBN": "frozen_bn",
    "BN": "bn",
    "SyncBN": "sync_bn",
    "nnSyncBN": "sync_bn",
    "GN": "gn",
}
_LEVELS = {f"res{i}": f"c{i}" for i in range(2, 6)} | {f"p{i}": f"p{i}" for i in range(2, 7)}
_LOSSES = {"smooth_l1": "smooth_l1", "giou": "giou"}
_POOLERS: dict[str, tuple[str, bool | None]] = {
    "ROIAlignV2": ("roi_align", True),
    "ROIAlign": ("roi_align", False),
    "ROIPool": ("roi_pool", None),
}
#: Of the network: what these forbid is refused.
_ONLY: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.ANCHOR_GENERATOR.NAME": (None, "DefaultAnchorGenerator"),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": (None, 64),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": (None, [False] * 4),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ("KRCNNConvDeconvUpsampleHead",),
}
#: Of their program, and of heads that are off.
_RUN = (
    *("VERSION", "OUTPUT_DIR", "CUDNN_BENCHMARK", "VIS_PERIOD", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS"),
    *("FLOAT32_PRECISION", "GLOBAL", "TEST.EXPECTED_RESULTS", "MODEL.LOAD_PROPOSALS"),
)


def convert_keys(theirs: ForeignConfig) -> Converted:
    """A config of Detectron2 in our keys.

    Raises:
        ConfigError: it describes another network than those that are built here, by file:line.
    """
    out = Converted("detectron2")
    for key, known in _ONLY.items():
        value = theirs.get(key)
        if value not in known:
            theirs.refuse(key, f"{value!r} is a network that is not built here; known is {known[-1]!r}")
    _backbone(theirs, out)
    _proposals(theirs, out)
    _heads(theirs, out)
    convert_training(theirs, out)
    convert_data(theirs, out)
    for key, usual in FIXED.items():
        if (value := theirs.get(key, usual)) != usual:
            out.note(f"{key} {value}: has no counterpart; here it is as with {usual}")
    out.run_keys = [key for key in _RUN if theirs.given(key)]
    for key in _RUN:
        theirs.get(key)
    return out


def _backbone(theirs: ForeignConfig, out: Converted) -> None:
    kinds = {"build_resnet_backbone": None, "build_resnet_fpn_backbone": "fpn"}
    neck = theirs.needs("MODEL.BACKBONE.NAME", kinds)
    out.parts |= {"model.backbone": "resnet", "model.neck": neck}
    resnet, ours = "MODEL.RESNETS", "model.backbone"
    depth = theirs.needs(f"{resnet}.DEPTH", {d: d for d in (18, 34, 50, 101, 152)})
    out.set(f"{ours}.depth", depth, f"{resnet}.DEPTH")
    wide = 256 if depth >= 50 else 64
    if theirs.get(f"{resnet}.RES2_OUT_CHANNELS", wide) != wide:
        theirs.refuse(f"{resnet}.RES2_OUT_CHANNELS", f"a ResNet of depth {depth} has {wide} here")
    for key, name in (("NUM_GROUPS", "groups"), ("WIDTH_PER_GROUP", "width_per_group")):
        out.copy(theirs, f"{ours}.{name}", f"{resnet}.{key}")
    stride = theirs.get(f"{resnet}.STRIDE_IN_1X1")
    out.set(f"{ours}.stride_in_1x1", bool(stride) and depth >= 50, f"{resnet}.STRIDE_IN_1X1")
    out.map(theirs, f"{ours}.norm", f"{resnet}.NORM", _NORMS)
    dilated = theirs.needs(f"{resnet}.RES5_DILATION", {1: False, 2: True})
    out.set(f"{ours}.dilated_c5", dilated, f"{resnet}.RES5_DILATION")
    levels = _levels(theirs, f"{resnet}.OUT_FEATURES")
    out.set(f"{ours}.outputs", levels, f"{resnet}.OUT_FEATURES")
    out.copy(theirs, f"{ours}.freeze_at", "MODEL.BACKBONE.FREEZE_AT")
    if neck == "fpn":
        if _levels(theirs, "MODEL.FPN.IN_FEATURES", theirs.get(f"{resnet}.OUT_FEATURES")) != levels:
            theirs.refuse("MODEL.FPN.IN_FEATURES", "the pyramid takes all levels of the backbone here")
        out.copy(theirs, "model.neck.out_channels", "MODEL.FPN.OUT_CHANNELS")
        out.map(theirs, "model.neck.norm", "MODEL.FPN.NORM", _NORMS)
    out.set("model.preprocess.size_divisor", 32 if neck == "fpn" else 1, "MODEL.BACKBONE.NAME")
    mean, std = theirs.get("MODEL.PIXEL_MEAN"), theirs.get("MODEL.PIXEL_STD")
    if theirs.needs("INPUT.FORMAT", {"BGR": True, "RGB": False}):
        mean, std = mean[::-1], std[::-1]
        out.note(
            "INPUT.FORMAT BGR: images are R, G, B here; the statistics are turned, and so are weights"
            " by maskrcnn convert"
        )
    out.set("model.preprocess.mean", mean, "MODEL.PIXEL_MEAN, R, G, B")
    out.set("model.preprocess.std", std, "MODEL.PIXEL_STD, R, G, B")


def _levels(theirs: ForeignConfig, key: str, default: Any = None) -> list[str]:
    names = theirs.get(key) if default is None else theirs.get(key, default)
    if not isinstance(names, list) or any(name not in _LEVELS for name in names):
        theirs.refuse(key, f"{names} names levels that are not known here ({', '.join(_LEVELS)})")
    return [_LEVELS[name] for name in names]


def _proposals(theirs: ForeignConfig, out: Converted) -> None:
    makes = theirs.needs("MODEL.PROPOSAL_GENERATOR.NAME", {"RPN": True, "PrecomputedProposals": False})
    out.parts["model.rpn"] = makes
    if not makes:
        out.settings = {key: v for key, v in out.settings.items() if not key.startswith("model.rpn.")}
        for key in ("MODEL.RPN", "MODEL.ANCHOR_GENERATOR", "MODEL.PROPOSAL_GENERATOR"):
            theirs.get(key)
        for key in ("PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST"):
            theirs.get(f"DATASETS.{key}")
        out.note(
            "DATASETS.PROPOSAL_FILES_*: proposals come from files that maskrcnn proposals writes;"
            " name them by data.train.proposals and data.val.proposals"
        )
        return
    rpn, ours = "MODEL.RPN", "model.rpn"
    levels = _levels(theirs, f"{rpn}.IN_FEATURES")
    out.set(f"{ours}.levels", levels, f"{rpn}.IN_FEATURES")
    anchors = "MODEL.ANCHOR_GENERATOR"
    sizes, ratios = theirs.get(f"{anchors}.SIZES"), theirs.get(f"{anchors}.ASPECT_RATIOS")
    sizes = sizes * len(levels) if len(sizes) == 1 else sizes
    if any(other != ratios[0] for other in ratios):
        theirs.refuse(f"{anchors}.ASPECT_RATIOS", "all levels have the same ratios here")
    out.set(f"{ours}.anchors.sizes", sizes, f"{anchors}.SIZES")
    out.set(f"{ours}.anchors.ratios", ratios[0], f"{anchors}.ASPECT_RATIOS")
    out.copy(theirs, f"{ours}.anchors.offset", f"{anchors}.OFFSET")
    low, high = theirs.get(f"{rpn}.IOU_THRESHOLDS")
    out.set(f"{ours}.negative_iou", low, f"{rpn}.IOU_THRESHOLDS")
    out.set(f"{ours}.positive_iou", high, f"{rpn}.IOU_THRESHOLDS")
    out.map(theirs, f"{ours}.box_loss", f"{rpn}.BBOX_REG_LOSS_TYPE", _LOSSES)
    for key, name in (
        ("BATCH_SIZE_PER_IMAGE", "samples"),
        ("POSITIVE_FRACTION", "positive_fraction"),
        ("SMOOTH_L1_BETA", "beta"),
        ("PRE_NMS_TOPK_TRAIN", "pre_nms_train"),
        ("PRE_NMS_TOPK_TEST", "pre_nms_test"),
        ("POST_NMS_TOPK_TRAIN", "post_nms_train"),
        ("POST_NMS_TOPK_TEST", "post_nms_test"),
        ("NMS_THRESH", "nms_threshold"),
    ):
        out.copy(theirs, f"{ours}.{name}", f"{rpn}.{key}")
    out.copy(theirs, f"{ours}.min_size", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE")
    widths = theirs.get(f"{rpn}.CONV_DIMS")
    if any(width != widths[0] for width in widths):
        theirs.refuse(f"{rpn}.CONV_DIMS", "all convolutions of the RPN have one width here")
    out.set(f"{ours}.convs", len(widths), f"{rpn}.CONV_DIMS")
    out.set(f"{ours}.width", None if widths[0] == -1 else widths[0], f"{rpn}.CONV_DIMS")


def _heads(theirs: ForeignConfig, out: Converted) -> None:
    kinds = {"Res5ROIHeads": "res5", "StandardROIHeads": "", "CascadeROIHeads": "cascade"}
    kind = theirs.needs("MODEL.ROI_HEADS.NAME", kinds)
    c4, heads, ours = kind == "res5", "MODEL.ROI_HEADS", "model.roi"
    masks, points = bool(theirs.get("MODEL.MASK_ON")), bool(theirs.get("MODEL.KEYPOINT_ON"))
    out.parts |= {"model.roi_trunk": c4, "model.roi.cascade": kind == "cascade"}
    out.parts |= {"model.mask_head": masks, "model.keypoint_head": points}
    out.set(f"{ours}.levels", _levels(theirs, f"{heads}.IN_FEATURES"), f"{heads}.IN_FEATURES")
    bounds = theirs.get(f"{heads}.IOU_THRESHOLDS")
    if len(bounds) != 1:
        theirs.refuse(f"{heads}.IOU_THRESHOLDS", "there is one bound between background and objects here")
    out.set(f"{ours}.positive_iou", bounds[0], f"{heads}.IOU_THRESHOLDS")
    out.set(f"{ours}.negative_iou", bounds[0], f"{heads}.IOU_THRESHOLDS")
    for key, name in (
        ("BATCH_SIZE_PER_IMAGE", "samples"),
        ("POSITIVE_FRACTION", "positive_fraction"),
        ("SCORE_THRESH_TEST", "score_threshold"),
        ("NMS_THRESH_TEST", "nms_threshold"),
    ):
        out.copy(theirs, f"{ours}.{name}", f"{heads}.{key}")
    out.copy(theirs, f"{ours}.max_detections", "TEST.DETECTIONS_PER_IMAGE")
    if theirs.given(f"{heads}.NUM_CLASSES"):
        out.note(f"{heads}.NUM_CLASSES {theirs.get(f'{heads}.NUM_CLASSES')}: classes come with the data")
    _box_head(theirs, out, c4)
    for name, on in (("MASK", masks), ("KEYPOINT", points)):
        part = f"MODEL.ROI_{name}_HEAD"
        if not on:
            theirs.get(part)
        elif not c4:  # there all heads share what is pooled for boxes
            for key in ("POOLER_TYPE", "POOLER_SAMPLING_RATIO"):
                boxes = theirs.get(f"MODEL.ROI_BOX_HEAD.{key}")
                if (value := theirs.get(f"{part}.{key}")) != boxes:
                    out.note(f"{part}.{key} {value}: one operator pools for all heads here ({key} {boxes})")
    if kind == "cascade":
        cascade = "MODEL.ROI_BOX_CASCADE_HEAD"
        out.copy(theirs, f"{ours}.cascade.ious", f"{cascade}.IOUS")
        weights = theirs.get(f"{cascade}.BBOX_REG_WEIGHTS")
        out.set(f"{ours}.cascade.box_weights", weights, f"{cascade}.BBOX_REG_WEIGHTS")
    if masks:
        _mask_head(theirs, out, c4)
    if points:
        _keypoint_head(theirs, out)


def _box_head(theirs: ForeignConfig, out: Converted, c4: bool) -> None:
    head, ours = "MODEL.ROI_BOX_HEAD", "model.box_head"
    kind, aligned = theirs.needs(f"{head}.POOLER_TYPE", _POOLERS)
    out.set("model.roi_op.type", kind, f"{head}.POOLER_TYPE")
    ratio = theirs.get(f"{head}.POOLER_SAMPLING_RATIO")
    if aligned is not None:
        out.set("model.roi_op.aligned", aligned, f"{head}.POOLER_TYPE")
        out.set("model.roi_op.sampling_ratio", ratio, f"{head}.POOLER_SAMPLING_RATIO")
    side = theirs.get(f"{head}.POOLER_RESOLUTION")
    convs, layers = theirs.get(f"{head}.NUM_CONV"), theirs.get(f"{head}.NUM_FC")
    norm = theirs.needs(f"{head}.NORM", _NORMS)
    width, hidden = theirs.get(f"{head}.CONV_DIM"), theirs.get(f"{head}.FC_DIM")
    name = theirs.get(f"{head}.NAME")
    if c4:
        if side != 14:
            theirs.refuse(f"{head}.POOLER_RESOLUTION", "a Res5 head pools 14 x 14 here")
        out.set("model.roi_trunk.c4", "detectron2", "MODEL.ROI_HEADS.NAME")
        out.set(f"{ours}.type", "linear", "MODEL.ROI_HEADS.NAME")
        out.set(f"{ours}.pool_size", 7, f"{head}.POOLER_RESOLUTION, halved by res5")
    elif name != "FastRCNNConvFCHead":
        theirs.refuse(f"{head}.NAME", f"{name!r} has no counterpart here; known is FastRCNNConvFCHead")
    else:
        out.set(f"{ours}.type", "two_fc" if (convs, layers) == (0, 2) else "conv_fc", f"{head}.NUM_FC")
        out.set(f"{ours}.hidden", hidden, f"{head}.FC_DIM")
        out.set(f"{ours}.pool_size", side, f"{head}.POOLER_RESOLUTION")
        if (convs, layers) != (0, 2):
            out.set(f"{ours}.convs", convs, f"{head}.NUM_CONV")
            out.set(f"{ours}.fcs", layers, f"{head}.NUM_FC")
            out.set(f"{ours}.width", width, f"{head}.CONV_DIM")
            out.set(f"{ours}.norm", norm, f"{head}.NORM")
    out.copy(theirs, f"{ours}.class_agnostic", f"{head}.CLS_AGNOSTIC_BBOX_REG")
    out.map(theirs, "model.roi.box_loss", f"{head}.BBOX_REG_LOSS_TYPE", _LOSSES)
    out.copy(theirs, "model.roi.box_weights", f"{head}.BBOX_REG_WEIGHTS")
    out.copy(theirs, "model.roi.beta", f"{head}.SMOOTH_L1_BETA")


def _mask_head(theirs: ForeignConfig, out: Converted, c4: bool) -> None:
    head, ours = "MODEL.ROI_MASK_HEAD", "model.mask_head"
    for key, name in (("NUM_CONV", "convs"), ("CONV_DIM", "width"), ("CLS_AGNOSTIC_MASK", "class_agnostic")):
        out.copy(theirs, f"{ours}.{name}", f"{head}.{key}")
    out.map(theirs, f"{ours}.norm", f"{head}.NORM", _NORMS)
    side = theirs.get(f"{head}.POOLER_RESOLUTION")
    out.set(f"{ours}.pool_size", 7 if c4 else side, f"{head}.POOLER_RESOLUTION")
    target = theirs.needs("INPUT.MASK_FORMAT", {"polygon": "polygon", "bitmask": "bitmask_hard"})
    out.set("model.mask_target", target, "INPUT.MASK_FORMAT")


def _keypoint_head(theirs: ForeignConfig, out: Converted) -> None:
    head, ours = "MODEL.ROI_KEYPOINT_HEAD", "model.keypoint_head"
    widths = theirs.get(f"{head}.CONV_DIMS")
    if not widths or any(width != widths[0] for width in widths):
        theirs.refuse(f"{head}.CONV_DIMS", "all convolutions of the keypoint head have one width here")
    out.set(f"{ours}.convs", len(widths), f"{head}.CONV_DIMS")
    out.set(f"{ours}.width", widths[0], f"{head}.CONV_DIMS")
    out.copy(theirs, f"{ours}.num_keypoints", f"{head}.NUM_KEYPOINTS")
    out.copy(theirs, f"{ours}.pool_size", f"{head}.POOLER_RESOLUTION")
    least = theirs.get(f"{head}.MIN_KEYPOINTS_PER_IMAGE")
    out.set("data.train.min_keypoints", least, f"{head}.MIN_KEYPOINTS_PER_IMAGE")
