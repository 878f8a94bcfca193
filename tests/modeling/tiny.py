"""A model and a batch small enough for any test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maskrcnn.modeling import MaskRCNN, MaskRCNNConfig
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.roi.box_head import TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.modeling.rpn.rpn import RPNConfig
from maskrcnn.structures import InstanceMasks, Targets

CLASSES = 3

CONFIG = MaskRCNNConfig(
    backbone=ResNetConfig(depth=18, width=8, norm="gn", freeze_at=0),
    neck=FPNConfig(out_channels=16),
    rpn=RPNConfig(
        anchors=AnchorConfig(sizes=((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))),
        samples=64,
        pre_nms_train=100,
        pre_nms_test=100,
        post_nms_train=50,
        post_nms_test=50,
    ),
    roi=RoIHeadsConfig(samples=32, max_detections=10),
    box_head=TwoFCBoxHeadConfig(hidden=32, pool_size=7),
    mask_head=FCNMaskHeadConfig(convs=1, width=16, pool_size=14),
)


def build(seed: int = 0, **changes: Any) -> MaskRCNN:
    """The tiny model with seeded weights; ``changes`` to fields of :data:`CONFIG`."""
    torch.manual_seed(seed)
    return replace(CONFIG, **changes).build(CLASSES)


def detecting(seed: int = 0, **changes: Any) -> MaskRCNN:
    """The same, its class layer scaled up so that an untrained model detects something."""
    model = build(seed, **changes)
    with torch.no_grad():
        for parameter in model.roi.box_head.get_submodule("predictor.logits").parameters():
            parameter.normal_(std=0.5)
    return model


def images(seed: int = 0, sizes: tuple[tuple[int, int], ...] = ((96, 120), (70, 64))) -> list[Tensor]:
    """Random uint8 images [3, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator) for h, w in sizes]


def targets(*boxes: list[list[float]], size: tuple[int, int] = (128, 128)) -> list[Targets]:
    """One image a list of boxes; masks are the boxes' rectangles, labels 0, 1, 2, 0, ..."""
    result = []
    for image in boxes:
        polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in image]
        result.append(
            Targets(
                torch.tensor(image).reshape(-1, 4),
                torch.arange(len(image)) % CLASSES,
                InstanceMasks.from_coco(polygons, *size),
                torch.arange(len(image)),
            )
        )
    return result


def seeds(seed: int = 0, images: int = 2) -> Tensor:
    """int64 [images], of the sampling."""
    return torch.arange(images) + 100 * seed
