"""torchvision's Mask R-CNN and Faster R-CNN with a ResNet-FPN -> our names, class order and shapes.

torchvision counts background as class 0; here classes are 0 .. K - 1 and background is K.  So the row of
background moves to the end of the logits, and its (never trained) deltas and masks are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.backbones.resnet import BLOCKS, Depth, ResNetConfig
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.roi.box_head import TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.modeling.rpn.rpn import RPNConfig
from maskrcnn.modeling.state_dict import mismatch

#: COCO's 80 categories among torchvision's labels 1 .. 90; the other ten never occur in the data.
COCO_LABELS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))

#: Their names -> ours.  Optional parts are names of older torchvision versions.
RULES = (
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.([0-3])\.(?:0\.)?(weight|bias)", r"neck.lateral.c{level}.0.\2"),
    (r"backbone\.fpn\.layer_blocks\.([0-3])\.(?:0\.)?(weight|bias)", r"neck.output.c{level}.0.\2"),
    (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)", r"rpn.head.conv.\1"),
    (r"rpn\.head\.cls_logits\.(weight|bias)", r"rpn.head.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(weight|bias)", r"rpn.head.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(weight|bias)", r"roi.box_head.fc1.\1"),
    (r"roi_heads\.box_head\.fc7\.(weight|bias)", r"roi.box_head.fc2.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(weight|bias)", r"roi.box_head.predictor.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)", r"roi.box_head.predictor.deltas.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(weight|bias)", r"roi.mask_head.convs.\1.0.\2"),
    (r"roi_heads\.mask_head\.mask_fcn([1-9])\.(weight|bias)", r"roi.mask_head.convs.{before}.0.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(weight|bias)", r"roi.mask_head.deconv.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(weight|bias)", r"roi.mask_head.logits.\1"),
)


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    state: our state dict.
    matched: (their name, our name), in the file's order.
    dropped: (their name, why).
    num_classes: K of the result.
    model: the parts that the weights were recognised as; its other keys are defaults.
    """

    state: dict[str, Tensor]
    matched: list[tuple[str, str]]
    dropped: list[tuple[str, str]]
    num_classes: int
    model: MaskRCNNConfig


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether these names are those of a torchvision detector with a ResNet-FPN."""
    return "backbone.body.conv1.weight" in state and "roi_heads.box_predictor.cls_score.weight" in state


def convert_torchvision(
    state: Mapping[str, Tensor],
    *,
    labels: Sequence[int] | None = None,
    bn_eps: float = 1e-5,
    batch_counts: bool = False,
) -> Conversion:
    """Translate a state dict; all of it, or an error.  The tensors of ``state`` are not written to.

    Args:
        state: of a torchvision Mask R-CNN or Faster R-CNN with a ResNet-FPN (version 1).
        labels: torchvision labels (1 ..) to keep, in the order of our classes; None keeps all.
        bn_eps: epsilon that the source's batch normalisation was used with: 1e-5, but 0 for torchvision's
            own published detectors of version 1.  Another one than 1e-5 is worked into the layers' weights.
        batch_counts: keep batch normalisation's ``num_batches_tracked``, for a model with ``norm: bn``.

    Raises:
        CheckpointError: not such a state dict, or a part of it is missing or left over.
        ConfigError: ``labels`` names a class that the file does not have.
    """
    if not is_torchvision(state):
        raise CheckpointError(
            "these are not the weights of a torchvision Mask R-CNN or Faster R-CNN with ResNet-FPN"
            f" (names found: {', '.join(list(state)[:3])}, ...)"
        )
    last = state["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
    keep = list(range(1, last + 1)) if labels is None else list(labels)
    if not keep or min(keep) < 1 or max(keep) > last:
        raise ConfigError(f"labels to keep must be 1 to {last} (the file's classes), got {keep}")
    converted: dict[str, Tensor] = {}
    matched, dropped, unknown = [], [], []
    for name, value in state.items():
        target = _rename(name)
        if target is None:
            unknown.append(name)
        elif name.endswith("num_batches_tracked") and not batch_counts:
            dropped.append((name, "frozen batch normalisation does not count batches"))
        else:
            converted[target] = _reorder(target, value, keep).clone()
            matched.append((name, target))
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(state)} tensors have no place here ({', '.join(unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}); known are torchvision's Mask R-CNN and Faster R-CNN"
            " of version 1 with ResNet-18/34/50/101/152"
        )
    model = _recognise(converted, len(keep))
    if bn_eps != 1e-5:
        _absorb_epsilon(converted, bn_eps)
    return Conversion(converted, matched, dropped, len(keep), model)


def _rename(name: str) -> str | None:
    for pattern, template in RULES:
        match = re.fullmatch(pattern, name)
        if match:
            number = int(match[1]) if match[1].isdigit() else 0
            return match.expand(template).format(level=number + 2, before=number - 1)
    return None


def _reorder(name: str, value: Tensor, keep: list[int]) -> Tensor:
    """Rows by class: background goes last in the logits, and away in deltas and masks."""
    if name.startswith("roi.box_head.predictor.logits."):
        return value[[*keep, 0]]
    if name.startswith("roi.box_head.predictor.deltas."):
        return value.view(-1, 4, *value.shape[1:])[keep].flatten(0, 1)
    if name.startswith("roi.mask_head.logits."):
        return value[keep]
    return value


def _absorb_epsilon(state: dict[str, Tensor], bn_eps: float) -> None:
    """Scale the weights so that ``weight / sqrt(var + 1e-5)`` is what it was with ``bn_eps``."""
    for name in [n for n in state if n.endswith(".running_var")]:
        weight = name.replace("running_var", "weight")
        var = state[name].double()
        if bool((var + bn_eps <= 0).any()):
            raise CheckpointError(
                f"{name} holds a variance of 0, which an epsilon of {bn_eps} cannot divide by"
            )
        factor = ((var + 1e-5) / (var + bn_eps)).sqrt()
        state[weight] = (state[weight].double() * factor).to(state[weight].dtype)


def _recognise(state: Mapping[str, Tensor], num_classes: int) -> MaskRCNNConfig:
    """The model these converted weights belong to; every name and shape of it must be there."""
    blocks = [
        len({n.split(".")[2] for n in state if n.startswith(f"backbone.layer{i}.")}) for i in range(1, 5)
    ]
    deep = any(n.startswith("backbone.layer1.0.conv3.") for n in state)
    depths: list[Depth] = [18, 34, 50, 101, 152]
    fits = [d for d in depths if list(BLOCKS[d]) == blocks and (d >= 50) == deep]
    if not fits:
        raise CheckpointError(
            f"the backbone has {blocks} blocks a stage, which no ResNet-18/34/50/101/152 has"
        )
    masks = any(n.startswith("roi.mask_head.") for n in state)
    try:
        anchors = state["rpn.head.objectness.weight"].shape[0]
        pooled = state["roi.box_head.fc1.weight"].shape[1] // state["neck.lateral.c2.0.weight"].shape[0]
        config = MaskRCNNConfig(
            backbone=ResNetConfig(
                depth=fits[0],
                width=state["backbone.conv1.weight"].shape[0],
                norm="frozen_bn" if "backbone.bn1.running_var" in state else "gn",
            ),
            neck=FPNConfig(out_channels=state["neck.lateral.c2.0.weight"].shape[0]),
            rpn=RPNConfig(anchors=AnchorConfig(ratios=(1.0,) * anchors if anchors != 3 else (0.5, 1.0, 2.0))),
            box_head=TwoFCBoxHeadConfig(
                hidden=state["roi.box_head.fc1.weight"].shape[0], pool_size=round(pooled**0.5)
            ),
            mask_head=FCNMaskHeadConfig(
                convs=len([n for n in state if re.fullmatch(r"roi\.mask_head\.convs\.\d\.0\.weight", n)]),
                width=state["roi.mask_head.deconv.weight"].shape[0],
            )
            if masks
            else None,
        )
    except KeyError as error:
        raise CheckpointError(
            f"the file lacks {error.args[0]} (our name); it is not a whole detector"
        ) from None
    with torch.device("meta"):
        own = config.build(num_classes).state_dict()
    problem = mismatch(own, state)
    if problem:
        raise CheckpointError(f"taken for a ResNet-{fits[0]}-FPN detector, but not all of it fits: {problem}")
    return config
