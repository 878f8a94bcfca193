"""Which model a converted state dict belongs to: all that names and shapes can say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from maskrcnn.convert.source import COUNTER, Counted, with_rpn
from maskrcnn.errors import CheckpointError, plural
from maskrcnn.modeling.backbones.blocks import BLOCKS
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.backbones.resnet import LEVELS, Depth, Level, ResNetConfig
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.norms import NormName
from maskrcnn.modeling.roi.box_head import ConvFCBoxHeadConfig, LinearBoxHeadConfig, TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.roi.stages import CascadeConfig
from maskrcnn.modeling.roi.trunk import Res5TrunkConfig

State = Mapping[str, Tensor]
#: Where the fifth stage of a C4 model lies.
TRUNK = "roi.trunk.layer4"


def recognise_resnet(
    state: State,
    counted: Counted,
    *,
    prefix: str = "backbone.",
    trunk: str | None = None,
    stride_in_1x1: bool = False,
) -> ResNetConfig:
    """The ResNet, ResNeXt or Wide ResNet that lies below ``prefix``, with its last stage below ``trunk``.

    Args:
        counted: the norm of a file that counts batches.
        stride_in_1x1: of its bottlenecks, where it has any.

    Raises:
        CheckpointError: no such network, or a part of it is missing.
    """
    stages = [f"{prefix}layer{i}" for i in range(1, 5)]
    if trunk is not None:
        stages[3] = trunk
    blocks = [len({n[len(s) + 1 :].split(".")[0] for n in state if n.startswith(f"{s}.")}) for s in stages]
    deep = any(n.startswith(f"{stages[0]}.0.conv3.") for n in state)
    depths: list[Depth] = [18, 34, 50, 101, 152]
    fits = [d for d in depths if list(BLOCKS[d]) == blocks and (d >= 50) == deep]
    if not fits:
        raise CheckpointError(
            f"the backbone has {blocks} blocks a stage, which no ResNet-18/34/50/101/152 has"
        )
    width = tensor(state, f"{prefix}conv1.weight").shape[0]
    inner = tensor(state, f"{stages[0]}.0.conv2.weight")
    groups = inner.shape[0] // inner.shape[1]
    norm = norm_of(state, f"{prefix}bn1", counted) or "frozen_bn"
    frozen = norm != "bn"
    if norm == "frozen_bn" and any(n.startswith(prefix) and n.endswith(f".{COUNTER}") for n in state):
        norm = counted  # of the stages that train; a frozen stem counts nothing
    return ResNetConfig(
        depth=fits[0],
        width=width,
        groups=groups,
        width_per_group=inner.shape[1] * 64 // width if deep else 64,
        norm=norm,
        freeze_at=2 if frozen else 0,
        outputs=("c4",) if trunk is not None else LEVELS,
        stride_in_1x1=deep and stride_in_1x1,
    )


def norm_of(state: State, name: str, counted: Counted) -> NormName | None:
    """The kind of the normalisation layer called ``name``; None where there is none."""
    if f"{name}.weight" not in state:
        return None
    if f"{name}.running_var" not in state:
        return "gn"
    return counted if f"{name}.{COUNTER}" in state else "frozen_bn"


def tensor(state: State, name: str) -> Tensor:
    """
    Raises:
        CheckpointError: the file lacks it.
    """
    if name not in state:
        raise CheckpointError(f"the file lacks {name} (our name); it is not a whole detector")
    return state[name]


def count(state: State, pattern: str) -> int:
    """How many names in ``state`` match the whole of ``pattern``, a regular expression."""
    return len([n for n in state if re.fullmatch(pattern, n)])


def recognise(
    state: State,
    num_classes: int,
    pyramid: MaskRCNNConfig,
    single: MaskRCNNConfig,
    counted: Counted,
    *,
    stride_in_1x1: bool,
) -> MaskRCNNConfig:
    """The model with the parts that the tensors show, and all else as the framework has it.

    Raises:
        CheckpointError: a part is of no kind known here.
    """
    trunk = TRUNK if any(n.startswith(f"{TRUNK}.") for n in state) else None
    backbone = recognise_resnet(state, counted, trunk=trunk, stride_in_1x1=stride_in_1x1)
    levels = sorted({n.split(".")[2] for n in state if n.startswith("neck.lateral.")})
    if levels:
        base = pyramid
        norm = norm_of(state, f"neck.lateral.{levels[0]}.1", "bn")
        neck = FPNConfig(out_channels=tensor(state, f"neck.lateral.{levels[0]}.0.weight").shape[0], norm=norm)
        channels = neck.out_channels
        outputs: tuple[Level, ...] = tuple(level for level in LEVELS if level in levels)
        backbone = replace(backbone, outputs=outputs)
        parts: dict[str, Any] = {"neck": neck}
    else:
        level: Level = "c5" if trunk is None else "c4"
        base = at_level(single, level)
        channels = backbone.width * (32 if backbone.depth >= 50 else 8)  # of the fifth stage
        if trunk is None:
            backbone = replace(backbone, outputs=("c5",), dilated_c5=True)
        parts = {"neck": None}
    parts |= {
        "backbone": backbone,
        "roi_trunk": None if trunk is None else Res5TrunkConfig(c4="detectron2"),
        "mask_head": _mask_head(state, num_classes),
        "keypoint_head": _keypoint_head(state),
    }
    box = "roi.box_head."
    if "roi.box_heads.0.predictor.logits.weight" in state:
        box = "roi.box_heads.0."
        parts["roi"] = replace(base.roi, cascade=CascadeConfig())
    parts["box_head"] = _box_head(state, box, num_classes, channels)
    return replace(with_rpn(base, convs=1 + count(state, r"rpn\.head\.more\.\d\.weight")), **parts)


def at_level(config: MaskRCNNConfig, level: str) -> MaskRCNNConfig:
    """A model without a pyramid, reading the one ``level``."""
    return replace(with_rpn(config, levels=(level,)), roi=replace(config.roi, levels=(level,)))


def _box_head(state: State, at: str, num_classes: int, channels: int) -> Any:
    agnostic = tensor(state, f"{at}predictor.deltas.weight").shape[0] == 4 and num_classes > 1
    convs = count(state, re.escape(at) + r"convs\.\d+\.0\.weight")
    if f"{at}fc1.weight" in state:
        first = tensor(state, f"{at}fc1.weight")
        return TwoFCBoxHeadConfig(
            hidden=first.shape[0], pool_size=_side(first, channels), class_agnostic=agnostic
        )
    if f"{at}fcs.0.weight" in state:
        first = tensor(state, f"{at}fcs.0.weight")
        width = tensor(state, f"{at}convs.0.0.weight").shape[0] if convs else channels
        return ConvFCBoxHeadConfig(
            convs=convs,
            width=width,
            fcs=count(state, re.escape(at) + r"fcs\.\d+\.weight"),
            hidden=first.shape[0],
            pool_size=_side(first, width),
            norm=norm_of(state, f"{at}convs.0.1", "bn"),
            class_agnostic=agnostic,
        )
    return LinearBoxHeadConfig(class_agnostic=agnostic)


def _side(first: Tensor, channels: int) -> int:
    """The side of the pooled features that a fully connected layer reads."""
    side = math.isqrt(first.shape[1] // channels)
    if channels * side**2 != first.shape[1]:
        raise CheckpointError(
            f"the box head reads {plural(first.shape[1], 'number')} a RoI, which is no square of"
            f" {plural(channels, 'channel')}"
        )
    return side


def _mask_head(state: State, num_classes: int) -> FCNMaskHeadConfig | None:
    if not any(n.startswith("roi.mask_head.") for n in state):
        return None
    convs = count(state, r"roi\.mask_head\.convs\.\d\.0\.weight")
    return FCNMaskHeadConfig(
        convs=convs,
        width=tensor(state, "roi.mask_head.deconv.weight").shape[1],
        pool_size=14 if convs else 7,
        norm=norm_of(state, "roi.mask_head.convs.0.1", "bn"),
        class_agnostic=tensor(state, "roi.mask_head.logits.weight").shape[0] == 1 and num_classes > 1,
    )


def _keypoint_head(state: State) -> ConvKeypointHeadConfig | None:
    if "roi.keypoint_head.deconv.weight" not in state:
        return None
    deconv = state["roi.keypoint_head.deconv.weight"]
    return ConvKeypointHeadConfig(
        num_keypoints=deconv.shape[1],
        convs=count(state, r"roi\.keypoint_head\.convs\.\d\.0\.weight"),
        width=deconv.shape[0],
    )
