"""maskrcnn-benchmark's detectors: FPN and C4; Faster, Mask and Keypoint R-CNN.

Its boxes end on the index of their last pixel (``x2 = x1 + width - 1``), ours at that pixel's end.  With
x2 and y2 one larger, its coder, its NMS and its choice of the level are ours; its anchors are one pixel
larger around the middle of the cell, and its RoIAlign sees one pixel less (``roi_align: {inclusive: true}``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from maskrcnn.convert.foreign_anchors import inclusive, rounded_cells, stored_anchors
from maskrcnn.convert.source import (
    COUNTER,
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
from maskrcnn.layers import RoIAlign
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.preprocess import PreprocessConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.rpn.rpn import RPNConfig

_BACKBONE = r"backbone\.body\.(?:stem\.)?"
_MASK = r"roi_heads\.mask\.feature_extractor\."
_KEYPOINT = r"roi_heads\.keypoint\.feature_extractor\."

RULES: tuple[Rule, ...] = (
    *residual_rules(_BACKBONE),
    *residual_rules(r"roi_heads\.(?:box|mask|keypoint)\.feature_extractor\.head\.", "roi.trunk."),
    (r"backbone\.fpn\.fpn_inner([1-4])\.(weight|bias)", r"neck.lateral.c<1+1>.0.\2"),
    (r"backbone\.fpn\.fpn_inner([1-4])\.([01])\.(weight|bias)", r"neck.lateral.c<1+1>.\2.\3"),
    (r"backbone\.fpn\.fpn_layer([1-4])\.(weight|bias)", r"neck.output.c<1+1>.0.\2"),
    (r"backbone\.fpn\.fpn_layer([1-4])\.([01])\.(weight|bias)", r"neck.output.c<1+1>.\2.\3"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.\1"),
    (r"rpn\.head\.cls_logits\.(weight|bias)", r"rpn.head.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(weight|bias)", r"rpn.head.deltas.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc([67])\.(weight|bias)", r"roi.box_head.fcs.<1-6>.\2"),
    (r"roi_heads\.box\.predictor\.cls_score\.(weight|bias)", r"roi.box_head.predictor.logits.\1"),
    (r"roi_heads\.box\.predictor\.bbox_pred\.(weight|bias)", r"roi.box_head.predictor.deltas.\1"),
    (rf"{_MASK}mask_fcn(\d)\.(weight|bias)", r"roi.mask_head.convs.<1-1>.0.\2"),
    (rf"{_MASK}mask_fcn(\d)\.([01])\.(weight|bias)", r"roi.mask_head.convs.<1-1>.\2.\3"),
    (r"roi_heads\.mask\.predictor\.conv5_mask\.(weight|bias)", r"roi.mask_head.deconv.\1"),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.(weight|bias)", r"roi.mask_head.logits.\1"),
    (rf"{_KEYPOINT}conv_fcn(\d)\.(weight|bias)", r"roi.keypoint_head.convs.<1-1>.0.\2"),
    (r"roi_heads\.keypoint\.predictor\.kps_score_lowres\.(weight|bias)", r"roi.keypoint_head.deconv.\1"),
)

# Detectron's statistics of MSRA's ResNets, B, G, R: its default for every model.
_MEAN: Triple = (102.9801, 115.9465, 122.7717)
_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
_RATIOS = (0.5, 1.0, 2.0)


def _read(file: File, state: Mapping[str, Tensor], bgr: bool | None) -> Reading:
    cells = stored_anchors(file.state, r"rpn\.")
    if not cells and any(name.startswith("neck.") for name in state):
        cells = rounded_cells((4, 8, 16, 32, 64), [(size,) for size in _SIZES], _RATIOS)
    elif not cells:
        cells = rounded_cells((16,), [_SIZES], _RATIOS)
    inner = state.get("backbone.layer1.0.conv2.weight")
    plain = inner is None or inner.shape[0] == inner.shape[1]
    gn = "backbone.bn1.running_var" not in state
    return Reading(
        bgr=bgr is not False,
        mean=_MEAN if bgr is not False else _MEAN[::-1],
        std=(1.0, 1.0, 1.0),
        stride_in_1x1=plain and not gn,
        why="its defaults" + ("" if plain and not gn else ", stride in the 3x3 as its X-101 and GN configs"),
        anchors=inclusive(cells),
    )


_PYRAMID = MaskRCNNConfig(
    rpn=RPNConfig(beta=1 / 9, normalize_by="sampled", post_nms_train=2000),
    roi=RoIHeadsConfig(beta=1.0),
    roi_op=RoIAlign(sampling_ratio=2, aligned=False, inclusive=True),
)
_SINGLE = replace(
    with_rpn(_PYRAMID, pre_nms_train=12000, pre_nms_test=6000),
    roi_op=RoIAlign(sampling_ratio=0, aligned=False, inclusive=True),
    preprocess=PreprocessConfig(size_divisor=1),
)


def family(model: MaskRCNNConfig) -> Family:
    """All its detectors train with the same losses and thresholds."""
    form = "C4" if model.neck is None else "FPN"
    return Family(model, f"configs/e2e_{task_of(model)}_rcnn_R_50_{form}_1x.yaml")


SOURCE = Source(
    name="maskrcnn-benchmark",
    marks=(
        r"backbone\.body\.stem\.conv1\.weight",
        r"roi_heads\.box\.predictor\.cls_score\.weight",
    ),
    rules=RULES,
    left_out=(
        (r"rpn\.anchor_generator\.cell_anchors\.\d+", "anchors, which the model's config holds"),
        (rf".*\.{COUNTER}", "frozen batch normalisation does not count batches"),
    ),
    background="first",
    read=_read,
    pyramid=_PYRAMID,
    single=_SINGLE,
    family=family,
    counted="frozen_bn",
    bn_eps=0.0,
    rounding="floor",
    resample="antialias",
    paste="torchvision",
    keypoint_offset=0.0,
)
