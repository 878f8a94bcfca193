"""Small detectors, and their state dicts as other frameworks name and order them.

The tables are written by hand from the frameworks' published checkpoints, apart from the rules under test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from maskrcnn.modeling import MaskRCNNConfig
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.roi.box_head import ConvFCBoxHeadConfig, LinearBoxHeadConfig, TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.roi.stages import CascadeConfig
from maskrcnn.modeling.roi.trunk import Res5TrunkConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.modeling.rpn.rpn import RPNConfig

CLASSES = 3
FRAMEWORKS = ("torchvision", "detectron2", "maskrcnn-benchmark", "mmdetection")

_MASK = MaskRCNNConfig(
    backbone=ResNetConfig(depth=18, width=8),
    neck=FPNConfig(out_channels=16),
    box_head=TwoFCBoxHeadConfig(hidden=12),
    mask_head=FCNMaskHeadConfig(width=16),
)
_ONE = AnchorConfig(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),))


def _norm(name: str) -> MaskRCNNConfig:
    return replace(
        _MASK,
        backbone=ResNetConfig(depth=18, width=8, norm=name),  # type: ignore[arg-type]
        neck=FPNConfig(out_channels=16, norm=name),  # type: ignore[arg-type]
        box_head=ConvFCBoxHeadConfig(width=16, hidden=12, norm=name),  # type: ignore[arg-type]
        mask_head=FCNMaskHeadConfig(width=16, norm=name),  # type: ignore[arg-type]
    )


FORMS = {
    "mask": _MASK,
    "faster": replace(_MASK, mask_head=None),
    "keypoint": replace(_MASK, mask_head=None, keypoint_head=ConvKeypointHeadConfig(width=16)),
    "v2": replace(_norm("bn"), rpn=RPNConfig(convs=2)),
    "gn": _norm("gn"),
    "sync": _norm("bn"),
    "cascade": replace(
        _MASK,
        box_head=TwoFCBoxHeadConfig(hidden=12, class_agnostic=True),
        roi=RoIHeadsConfig(cascade=CascadeConfig()),
    ),
    "c4": replace(
        _MASK,
        backbone=ResNetConfig(depth=50, width=8, outputs=("c4",)),
        neck=None,
        rpn=RPNConfig(levels=("c4",), anchors=_ONE),
        roi=RoIHeadsConfig(levels=("c4",)),
        roi_trunk=Res5TrunkConfig(c4="detectron2"),
        box_head=LinearBoxHeadConfig(),
        mask_head=FCNMaskHeadConfig(convs=0, width=16, pool_size=7),
    ),
    "dc5": replace(
        _MASK,
        backbone=ResNetConfig(depth=50, width=8, outputs=("c5",), dilated_c5=True),
        neck=None,
        rpn=RPNConfig(levels=("c5",), anchors=_ONE),
        roi=RoIHeadsConfig(levels=("c5",)),
    ),
}

_D2 = "proposal_generator.rpn_head."
_MB = "roi_heads.mask.predictor."
_MBX = "roi_heads.box.feature_extractor."
_MBK = "roi_heads.keypoint."

# Layer by layer: ours, then torchvision, Detectron2, maskrcnn-benchmark, mmdetection.
_LEVELS = [
    (f"neck.{ours}.c{i + 2}.0", f"backbone.fpn.{tv}.{i}.0", f"backbone.{d2}{i + 2}",
     f"backbone.fpn.{mb}{i + 1}", f"neck.{mm}.{i}.conv")
    for i in range(4)
    for ours, tv, d2, mb, mm in (
        ("lateral", "inner_blocks", "fpn_lateral", "fpn_inner", "lateral_convs"),
        ("output", "layer_blocks", "fpn_output", "fpn_layer", "fpn_convs"),
    )
]  # fmt: skip
_HEADS = [
    ("rpn.head.conv", "rpn.head.conv.0.0", f"{_D2}conv", "rpn.head.conv", "rpn_head.rpn_conv"),
    ("rpn.head.objectness", "rpn.head.cls_logits", f"{_D2}objectness_logits",
     "rpn.head.cls_logits", "rpn_head.rpn_cls"),
    ("rpn.head.deltas", "rpn.head.bbox_pred", f"{_D2}anchor_deltas", "rpn.head.bbox_pred",
     "rpn_head.rpn_reg"),
    ("roi.box_head.fc1", "roi_heads.box_head.fc6", "roi_heads.box_head.fc1",
     f"{_MBX}fc6", "roi_head.bbox_head.shared_fcs.0"),
    ("roi.box_head.fc2", "roi_heads.box_head.fc7", "roi_heads.box_head.fc2",
     f"{_MBX}fc7", "roi_head.bbox_head.shared_fcs.1"),
    ("roi.box_head.fcs.0", "roi_heads.box_head.5", "roi_heads.box_head.fc1", "",
     "roi_head.bbox_head.shared_fcs.0"),
    ("roi.box_head.predictor.logits", "roi_heads.box_predictor.cls_score",
     "roi_heads.box_predictor.cls_score", "roi_heads.box.predictor.cls_score", "roi_head.bbox_head.fc_cls"),
    ("roi.box_head.predictor.deltas", "roi_heads.box_predictor.bbox_pred",
     "roi_heads.box_predictor.bbox_pred", "roi_heads.box.predictor.bbox_pred", "roi_head.bbox_head.fc_reg"),
    ("roi.mask_head.deconv", "roi_heads.mask_predictor.conv5_mask", "roi_heads.mask_head.deconv",
     f"{_MB}conv5_mask", "roi_head.mask_head.upsample"),
    ("roi.mask_head.logits", "roi_heads.mask_predictor.mask_fcn_logits", "roi_heads.mask_head.predictor",
     f"{_MB}mask_fcn_logits", "roi_head.mask_head.conv_logits"),
    ("roi.keypoint_head.deconv", "roi_heads.keypoint_predictor.kps_score_lowres",
     "roi_heads.keypoint_head.score_lowres", f"{_MBK}predictor.kps_score_lowres", ""),
]  # fmt: skip
_CONVS = [
    row
    for i in range(8)
    for row in (
        (f"roi.mask_head.convs.{i}.0", f"roi_heads.mask_head.{i}.0", f"roi_heads.mask_head.mask_fcn{i + 1}",
         f"roi_heads.mask.feature_extractor.mask_fcn{i + 1}", f"roi_head.mask_head.convs.{i}.conv"),
        (f"roi.box_head.convs.{i}.0", f"roi_heads.box_head.{i}.0", f"roi_heads.box_head.conv{i + 1}", "",
         f"roi_head.bbox_head.shared_convs.{i}.conv"),
        (f"roi.keypoint_head.convs.{i}.0", f"roi_heads.keypoint_head.{2 * i}",
         f"roi_heads.keypoint_head.conv_fcn{i + 1}", f"{_MBK}feature_extractor.conv_fcn{i + 1}", ""),
    )
]  # fmt: skip
_STAGES = [
    (f"roi.box_heads.{i}.{ours}", "", f"roi_heads.{theirs}", "", f"roi_head.bbox_head.{i}.{mm}")
    for i in range(3)
    for ours, theirs, mm in (
        ("fc1", f"box_head.{i}.fc1", "shared_fcs.0"),
        ("fc2", f"box_head.{i}.fc2", "shared_fcs.1"),
        ("predictor.logits", f"box_predictor.{i}.cls_score", "fc_cls"),
        ("predictor.deltas", f"box_predictor.{i}.bbox_pred", "fc_reg"),
    )
]
LAYERS = {row[0]: row[1:] for row in (*_LEVELS, *_HEADS, *_CONVS, *_STAGES)}


def their_name(ours: str, framework: str, *, fpn: bool = True) -> str:
    """What a framework calls our tensor."""
    which = FRAMEWORKS.index(framework)
    layer, kind = ours.rsplit(".", 1)
    if layer.startswith(("backbone.", "roi.trunk.")):
        return _residual(ours, framework, fpn)
    if layer.startswith("rpn.head.more."):
        index = int(layer[-1]) + 1
        return (f"rpn.head.conv.{index}.0", f"proposal_generator.rpn_head.conv.conv{index}")[
            which
        ] + f".{kind}"
    if layer not in LAYERS:  # the norm behind a convolution
        conv = LAYERS[layer[:-1] + "0"][which]
        norm = "gn" if framework == "mmdetection" else "norm"
        if framework in ("torchvision", "maskrcnn-benchmark"):
            conv = conv.removesuffix(".0") if framework == "torchvision" else conv
            return f"{conv}.1.{kind}"
        return f"{conv.removesuffix('.conv')}.{norm}.{kind}"
    return f"{LAYERS[layer][which]}.{kind}"


def _residual(ours: str, framework: str, fpn: bool) -> str:
    name = ours.replace("roi.trunk.", "").replace("backbone.", "")
    trunk = ours.startswith("roi.trunk.")
    if framework == "torchvision":
        return f"backbone.body.{name}"
    if framework == "mmdetection":
        return f"backbone.{name}"
    if framework == "maskrcnn-benchmark":
        if trunk:
            return f"roi_heads.box.feature_extractor.head.{name}"
        return f"backbone.body.{'' if name.startswith('layer') else 'stem.'}{name}"
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}.", f"conv{number}.norm.")
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    name = f"stem.{name}" if not name.startswith("layer") else f"res{int(name[5]) + 1}{name[6:]}"
    return f"roi_heads.{name}" if trunk else f"backbone.{'bottom_up.' if fpn else ''}{name}"


def our_state(form: str, *, msra: bool = False, classes: int = CLASSES) -> dict[str, Tensor]:
    """Random weights of a small model; every tensor differs from every other.

    Args:
        msra: means of 0, as frozen norms of MSRA's networks have.
    """
    with torch.device("meta"):
        shapes = {n: v.shape for n, v in FORMS[form].build(classes).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.rand(list(shape), generator=generator) + 0.1 for n, shape in shapes.items()}
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_mean") and msra:
            state[name].zero_()
    return state


def their_state(ours: Mapping[str, Tensor], framework: str) -> dict[str, Tensor]:
    """Our weights as the framework's file has them: its names, its background, its order of colours."""
    fpn = any(name.startswith("neck.") for name in ours)
    first = framework in ("torchvision", "maskrcnn-benchmark")
    msra = not any(bool(v.any()) for n, v in ours.items() if n.endswith("running_mean"))
    bgr = framework == "maskrcnn-benchmark" or (framework in ("detectron2", "mmdetection") and msra)
    if framework == "mmdetection" and not any(n.endswith("running_mean") for n in ours):
        bgr = False
    result: dict[str, Tensor] = {}
    for name, value in ours.items():
        value = value.clone()
        if first and ".predictor.logits." in name:
            value = torch.cat((value[-1:], value[:-1]))
        if first and ".predictor.deltas." in name:
            value = torch.cat((torch.full_like(value[:4], -9.0), value))
        if first and name.startswith("roi.mask_head.logits."):
            value = torch.cat((torch.full_like(value[:1], -9.0), value))
        if bgr and name == "backbone.conv1.weight":
            value = value[:, [2, 1, 0]]
        result[their_name(name, framework, fpn=fpn)] = value
    return result
