"""Our detectors in torchvision's names: its own models load them, and the way back is the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from maskrcnn.convert.detector import convert
from maskrcnn.convert.source import File
from maskrcnn.convert.to_torchvision import to_torchvision
from maskrcnn.convert.torchvision import SOURCE
from maskrcnn.errors import CheckpointError
from maskrcnn.layers import RoIAlign, RoIPool
from maskrcnn.modeling import MaskRCNNConfig
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.preprocess import PreprocessConfig
from maskrcnn.modeling.roi.box_head import ConvFCBoxHeadConfig
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from tests.convert.foreign import our_state, their_state

V1 = SOURCE.pyramid
V2 = replace(
    V1,
    backbone=ResNetConfig(norm="bn", freeze_at=0),
    neck=FPNConfig(norm="bn"),
    rpn=replace(V1.rpn, convs=2),  # type: ignore[type-var]
    box_head=ConvFCBoxHeadConfig(norm="bn"),
    mask_head=FCNMaskHeadConfig(norm="bn"),
)
MODELS = {
    "maskrcnn_resnet50_fpn": V1,
    "fasterrcnn_resnet50_fpn": replace(V1, mask_head=None),
    "keypointrcnn_resnet50_fpn": replace(V1, mask_head=None, keypoint_head=ConvKeypointHeadConfig()),
    "maskrcnn_resnet50_fpn_v2": V2,
    "fasterrcnn_resnet50_fpn_v2": replace(V2, mask_head=None),
    "MaskRCNN": replace(V1, backbone=ResNetConfig(depth=101)),
}


def empty(model: MaskRCNNConfig, classes: int = 4) -> dict[str, Tensor]:
    with torch.device("meta"):
        return model.build(classes).state_dict()


@pytest.mark.parametrize("name", MODELS)
def test_its_own_model_loads_the_export(name: str) -> None:
    export = to_torchvision(empty(MODELS[name]), MODELS[name])
    assert export.call.startswith(name + "(")
    with torch.device("meta"):
        theirs: Any = eval(export.call, {**vars(detection), "resnet_fpn_backbone": resnet_fpn_backbone})
    theirs.load_state_dict(export.state, strict=True, assign=True)
    assert theirs.roi_heads.box_predictor.cls_score.weight.shape[0] == 5
    assert export.differences == []


@pytest.mark.parametrize("form", ["mask", "faster", "keypoint", "v2"])
def test_there_and_back(form: str) -> None:
    state = their_state(our_state(form), "torchvision")
    result = convert(File(state), SOURCE)
    model = replace(result.model, backbone=replace(result.model.backbone, width=64))  # type: ignore[type-var]
    back = to_torchvision(result.state, model).state
    assert set(back) == set(state)
    for name, value in back.items():
        rows = 4 if "bbox_pred" in name and "roi_heads" in name else 1 if "mask_fcn_logits" in name else 0
        assert not value[:rows].any() if rows else True, "what torchvision never uses is 0"
        assert value[rows:].equal(state[name][rows:]) if rows else value.equal(state[name]), name


def test_settings_go_with_the_call() -> None:
    model = replace(
        V1,
        preprocess=PreprocessConfig(mean=(1.0, 2.0, 3.0)),
        roi=replace(V1.roi, max_detections=7, beta=0.0),
        rpn=replace(V1.rpn, pre_nms_test=50),  # type: ignore[type-var]
    )
    export = to_torchvision(empty(model), model)
    assert export.arguments["box_detections_per_img"] == 7
    assert export.arguments["rpn_pre_nms_top_n_test"] == 50
    assert export.arguments["image_mean"] == [1 / 255, 2 / 255, 3 / 255]
    assert export.differences == [f"model.roi.beta is 0.0, there {1 / 9}"]
    with torch.device("meta"):
        theirs: Any = eval(export.call, vars(detection))
    assert theirs.roi_heads.detections_per_img == 7 and theirs.transform.image_mean == [
        1 / 255,
        2 / 255,
        3 / 255,
    ]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"backbone": ResNetConfig(norm="gn")}, ["model.backbone"]),
        ({"backbone": ResNetConfig(stride_in_1x1=True)}, ["model.backbone.stride_in_1x1"]),
        ({"neck": None}, ["model.neck"]),
        ({"rpn": None}, ["model.rpn"]),
        ({"rpn": replace(V1.rpn, anchors=AnchorConfig())}, ["model.rpn.anchors"]),  # type: ignore[type-var]
        ({"roi_op": RoIPool()}, ["model.roi_op"]),
        ({"roi_op": RoIAlign(), "neck": FPNConfig(norm="gn")}, ["model.roi_op", "norm: gn"]),
        (
            {"box_head": ConvFCBoxHeadConfig(fcs=2, norm="bn")},
            ["model.box_head.fcs", "a mix of its versions"],
        ),
        ({"rpn": replace(V1.rpn, convs=2)}, ["a mix of its versions"]),  # type: ignore[type-var]
        ({"mask_head": FCNMaskHeadConfig(loss="softmax")}, ["model.mask_head"]),
        ({"keypoint_head": ConvKeypointHeadConfig()}, ["masks and keypoints"]),
        ({"heads": {"other": FCNMaskHeadConfig()}}, ["model.heads"]),
    ],
)
def test_what_it_cannot_express_is_named(changes: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(CheckpointError) as error:
        to_torchvision({}, replace(V1, **changes))
    assert all(key in str(error.value) for key in keys)
