"""The published forms at full width: what one RoI becomes, step by step.  On the meta device: sizes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.modeling import MaskRCNN, MaskRCNNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.backbones.vgg import VGG16Config
from maskrcnn.modeling.interfaces import BoxHeadConfig, MaskHeadConfig, RoIFeatures
from maskrcnn.modeling.roi.box_head import (
    ConvFCBoxHeadConfig,
    LinearBoxHeadConfig,
    TwoFCBoxHeadConfig,
    VGGBoxHeadConfig,
)
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.roi.mask_mlp import MLPMaskHeadConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.roi.rois import RoIs
from maskrcnn.modeling.roi.trunk import C4, Res5TrunkConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.modeling.rpn.rpn import RPNConfig

#: Height and width of the image; c4 has 14 x 20 cells.
SIZE = (224, 320)
Shape = tuple[int, ...]


def config(level: str, backbone: ResNetConfig | VGG16Config) -> MaskRCNNConfig:
    """A model without a pyramid: RPN and RoIs read ``level``."""
    anchors = AnchorConfig(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),))
    return MaskRCNNConfig(
        backbone=backbone,
        neck=None,
        rpn=RPNConfig(levels=(level,), anchors=anchors),
        roi=RoIHeadsConfig(levels=(level,)),
    )


def resnet(level: str, *, dilated: bool = False) -> MaskRCNNConfig:
    return config(level, ResNetConfig(outputs=(level,), dilated_c5=dilated))  # type: ignore[arg-type]


def c4(form: C4) -> MaskRCNNConfig:
    return replace(
        resnet("c4"),
        roi_trunk=Res5TrunkConfig(c4=form),
        box_head=LinearBoxHeadConfig(),
        mask_head=FCNMaskHeadConfig(convs=0, pool_size=7),
    )


def vgg(level: str) -> MaskRCNNConfig:
    backbone = VGG16Config(outputs=(level,))  # type: ignore[arg-type]
    return replace(config(level, backbone), box_head=VGGBoxHeadConfig(), mask_head=None)


def trace(model_config: MaskRCNNConfig) -> dict[str, Shape]:
    """Shapes of the levels, and of what each layer of the heads gives, for one image and one RoI."""
    with torch.device("meta"):
        model: MaskRCNN = model_config.build(80).eval()
    seen: dict[str, Shape] = {}

    def record(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, out: Tensor | tuple[Tensor, Tensor]) -> None:
            seen[name] = tuple(out.shape) if isinstance(out, Tensor) else tuple(out[0].shape)

        model.get_submodule(name).register_forward_hook(hook)

    for name, _ in model.named_modules():
        if name.startswith(("roi.", "rpn.head.")):
            record(name)
    features = model.features(torch.empty(1, 3, *SIZE, device="meta"))
    seen |= {level: tuple(value.shape) for level, value in features.items()}
    assert model.rpn is not None
    model.rpn.head([features[level] for level in model_config.rpn.levels] if model_config.rpn else [])
    roi = model.roi
    box = RoIs(torch.zeros(1, 5, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta"), None)
    roi.box_head(RoIFeatures(features, roi.trunk).pool(roi.box_pooler, box))
    if roi.mask_head is not None:
        roi.mask_head(RoIFeatures(features, roi.trunk).pool(roi.mask_head.pooler, box))
    return seen


def some(seen: dict[str, Shape], *names: str) -> list[Shape]:
    """Without the leading 1 of one RoI or image."""
    return [seen[name][1:] for name in names]


def test_c4_of_the_paper() -> None:
    """He et al. 2017, figure 4 left: RoI 7x7x1024, res5 to 7x7x2048, mask 14x14x256 to 14x14x80."""
    seen = trace(c4("paper"))
    assert some(seen, "c4", "roi.box_pooler", "roi.trunk") == [(1024, 14, 20), (1024, 7, 7), (2048, 7, 7)]
    assert some(seen, "roi.box_head.predictor.logits", "roi.box_head.predictor.deltas") == [(81,), (320,)]
    assert some(seen, "roi.mask_head.pooler", "roi.mask_head.deconv", "roi.mask_head.logits") == [
        (1024, 7, 7), (256, 14, 14), (80, 14, 14),
    ]  # fmt: skip
    assert some(seen, "rpn.head.conv", "rpn.head.objectness", "rpn.head.deltas") == [
        (1024, 14, 20), (15, 14, 20), (60, 14, 20),
    ]  # fmt: skip


def test_c4_of_detectron2() -> None:
    """The RoI is pooled twice as fine and res5 has its stride; the heads see the same."""
    seen = trace(c4("detectron2"))
    assert some(seen, "roi.box_pooler", "roi.mask_head.pooler", "roi.trunk") == [
        (1024, 14, 14), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip
    assert some(seen, "roi.mask_head.deconv", "roi.mask_head.logits") == [(256, 14, 14), (80, 14, 14)]


@pytest.mark.parametrize(("dilated", "cells"), [(False, (7, 10)), (True, (14, 20))], ids=["C5", "DC5"])
def test_c5_and_dc5(dilated: bool, cells: tuple[int, int]) -> None:
    """Stride 32 (DC5: 16), two fully connected layers at 7x7, four convolutions at 14x14."""
    seen = trace(resnet("c5", dilated=dilated))
    assert some(seen, "c5", "roi.box_pooler", "roi.box_head.fc1", "roi.box_head.fc2") == [
        (2048, *cells), (2048, 7, 7), (1024,), (1024,),
    ]  # fmt: skip
    assert some(seen, "roi.mask_head.pooler", "roi.mask_head.convs.0", "roi.mask_head.logits") == [
        (2048, 14, 14), (256, 14, 14), (80, 28, 28),
    ]  # fmt: skip


@pytest.mark.parametrize(("level", "cells"), [("c4", (14, 20)), ("c5", (7, 10))])
def test_vgg_at_stride_16_and_32(level: str, cells: tuple[int, int]) -> None:
    """Girshick 2015, section 2.2: conv5_3, RoIs of 7x7x512, fc6 and fc7."""
    seen = trace(vgg(level))
    assert some(seen, level, "roi.box_pooler", "roi.box_head.fc1", "roi.box_head.fc2") == [
        (512, *cells), (512, 7, 7), (4096,), (4096,),
    ]  # fmt: skip
    assert some(seen, "rpn.head.conv") == [(512, *cells)]


def test_rpn_width() -> None:
    model = resnet("c4")
    assert model.rpn is not None
    seen = trace(replace(model, rpn=replace(model.rpn, width=512, convs=2)))
    assert some(seen, "rpn.head.conv", "rpn.head.more.0") == [(512, 14, 20), (512, 14, 20)]


FPN_MASK = {
    "roi.mask_head.pooler": (256, 14, 14),
    "roi.mask_head.convs": (256, 14, 14),
    "roi.mask_head.deconv": (256, 28, 28),
    "roi.mask_head.logits": (80, 28, 28),
}


@pytest.mark.parametrize(
    ("box", "mask", "expected"),
    [
        (
            TwoFCBoxHeadConfig(),
            FCNMaskHeadConfig(),
            FPN_MASK | {"roi.box_pooler": (256, 7, 7), "roi.box_head.fc1": (1024,)},
        ),
        (
            ConvFCBoxHeadConfig(norm="gn", class_agnostic=True),
            FCNMaskHeadConfig(norm="gn", loss="softmax"),
            FPN_MASK
            | {
                "roi.box_head.convs.3": (256, 7, 7),
                "roi.box_head.fcs.0": (1024,),
                "roi.box_head.predictor.deltas": (4,),
                "roi.mask_head.logits": (81, 28, 28),
            },
        ),
        (
            TwoFCBoxHeadConfig(),
            MLPMaskHeadConfig(),
            {
                "roi.mask_head.pooler": (256, 14, 14),
                "roi.mask_head.fcs.0": (1024,),
                "roi.mask_head.fcs.1": (1024,),
                "roi.mask_head.logits": (80 * 28 * 28,),
                "roi.mask_head": (80, 28, 28),
            },
        ),
        (
            TwoFCBoxHeadConfig(),
            MLPMaskHeadConfig(fcs=3, class_agnostic=True),
            {"roi.mask_head.fcs.2": (1024,), "roi.mask_head": (1, 28, 28)},
        ),
    ],
    ids=["two_fc, fcn", "conv_fc, softmax", "mlp of 2", "mlp of 3"],
)
def test_fpn(box: BoxHeadConfig, mask: MaskHeadConfig, expected: dict[str, Shape]) -> None:
    """He et al. 2017, figure 4 right: 14x14x256 to 28x28x80; table 2e: 1024, 1024 (, 1024), 80 x 28 x 28."""
    seen = trace(replace(MaskRCNNConfig(), box_head=box, mask_head=mask))
    assert {name: seen[name][1:] for name in expected} == expected
    assert ("roi.mask_head.fcs.2" in seen) == ("roi.mask_head.fcs.2" in expected)
