"""torchvision's detectors with seeded random weights, and ours with the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, KeypointRCNN, keypoint_rcnn, mask_rcnn
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.convert.detector import Conversion, convert
from maskrcnn.convert.source import File
from maskrcnn.convert.torchvision import SOURCE
from maskrcnn.modeling import MaskRCNN, MaskRCNNConfig
from maskrcnn.modeling.preprocess import ImageBatch

#: What ``--model`` may be; the version after the underscore.
MODELS = ("mask_v1", "mask_v2", "faster_v1", "faster_v2", "keypoint_v1")


def their_model(
    name: str, depth: int, labels: int, tensor: Tensor, seed: int, *, width: int = 256, **arguments: Any
) -> Any:
    """torchvision's model with random weights that give sensible features and many detections.

    One pass in training mode sets the batch statistics; the output layers are scaled up so that objectness,
    scores and boxes spread.

    Args:
        name: of MODELS.  Version 1 has frozen batch normalisation in the backbone and none elsewhere, version
            2 has it everywhere and trains it.
        labels: classes, background included.
        tensor: [N, 3, H, W], what sets the statistics.
        width: channels of the pyramid; 256, torchvision's own, makes exactly what its builders make.
        arguments: further ones of torchvision's constructor.
    """
    torch.manual_seed(seed)
    kind, version = name.split("_")
    second = version == "v2"
    norm = nn.BatchNorm2d if second else None
    arguments |= _heads(kind, second, width, labels)
    make = {"mask": TheirMaskRCNN, "faster": FasterRCNN, "keypoint": KeypointRCNN}[kind]
    model = make(_pyramid(depth, 5 if second else 3, width, norm), **arguments)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
        nn.init.uniform_(module.weight, 0.5, 1.0)
        nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        model.backbone.train()
        model.backbone(tensor.float())
        heads = model.roi_heads
        scaled = [
            (model.rpn.head.cls_logits, 30.0),
            (model.rpn.head.bbox_pred, 10.0),
            (heads.box_predictor.cls_score, 20.0),
            (heads.box_predictor.bbox_pred, 3.0),
        ]
        if kind == "mask":
            scaled.append((heads.mask_predictor.mask_fcn_logits, 3.0))
        if kind == "keypoint":
            scaled.append((heads.keypoint_predictor.kps_score_lowres, 3.0))
        for layer, factor in scaled:
            layer.weight.mul_(factor)
            nn.init.normal_(layer.bias, std=0.1)
        for module in norms:
            module.momentum = 0.1
            if module.running_mean.abs().max() == 0:  # in a head, which has not run
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    if not second:
        _freeze(model.backbone.body)
    return model.eval()


def _pyramid(depth: int, trainable: int, width: int, norm: Any) -> BackboneWithFPN:
    """A ResNet with its last ``trainable`` stages trained (5: all of it), and the pyramid over it."""
    body = getattr(resnet, f"resnet{depth}")(weights=None, norm_layer=nn.BatchNorm2d)
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1", "bn1"][: trainable + (trainable == 5)]
    for key, parameter in body.named_parameters():
        parameter.requires_grad_(key.split(".")[0] in trained)
    levels = {f"layer{i + 1}": str(i) for i in range(4)}
    channels = [body.inplanes // 2**i for i in (3, 2, 1, 0)]
    return BackboneWithFPN(body, levels, channels, width, norm_layer=norm)


def _heads(kind: str, second: bool, width: int, labels: int) -> dict[str, Any]:
    """What torchvision's builders make, at another width."""
    norm = nn.BatchNorm2d if second else None
    heads: dict[str, Any] = {"rpn_head": RPNHead(width, 3, conv_depth=2 if second else 1)}
    heads["box_head"] = TwoMLPHead(width * 7 * 7, 4 * width)
    if second:
        heads["box_head"] = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [4 * width], norm_layer=norm)
    heads["box_predictor"] = FastRCNNPredictor(4 * width, labels)
    if kind == "mask":
        heads["mask_head"] = mask_rcnn.MaskRCNNHeads(width, [width] * 4, 1, norm_layer=norm)
        heads["mask_predictor"] = mask_rcnn.MaskRCNNPredictor(width, width, labels)
    if kind == "keypoint":
        heads["keypoint_head"] = keypoint_rcnn.KeypointRCNNHeads(width, [2 * width] * 8)
        heads["keypoint_predictor"] = keypoint_rcnn.KeypointRCNNPredictor(2 * width, 17)
    return heads


def _freeze(module: nn.Module) -> None:
    """Put torchvision's frozen batch normalisation in place of the other."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze(child)


def conversion(state: dict[str, Tensor]) -> Conversion:
    """All classes of a torchvision state dict, converted."""
    return convert(File(state), SOURCE)


def our_model(theirs: Any, limits: Sequence[tuple[str, str, int]] = ()) -> MaskRCNN:
    """The model that the converter recognises, with the converted weights.

    Args:
        limits: ("rpn" or "roi", key, value), other than the recognised ones.
    """
    result = conversion(theirs.state_dict())
    config = result.model
    for part, key, value in limits:
        config = replace(config, **{part: replace(getattr(config, part), **{key: value})})
    model = config.build(result.num_classes)
    model.load_state_dict(result.state)
    return model.eval()


def image_batch(images: Sequence[Tensor]) -> ImageBatch:
    """Images [3, h, w] in 0..255 through our preprocessing; both models get its result."""
    batch: ImageBatch = MaskRCNNConfig().preprocess.build(False)(images)
    return batch
