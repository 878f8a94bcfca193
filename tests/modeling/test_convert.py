"""torchvision's weights to ours: all of them in their places, or an error."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling import MaskRCNNConfig
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.convert.torchvision import COCO_LABELS, RULES, convert_torchvision
from maskrcnn.modeling.norms import FrozenBatchNorm2d
from maskrcnn.modeling.roi.box_head import TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from tests.modeling import tiny

LABELS = 5  # background included


def source(*, masks: bool = True, old_names: bool = False) -> dict[str, Tensor]:
    """A small detector's random weights under torchvision's names; every tensor differs from every other."""
    config = MaskRCNNConfig(
        backbone=ResNetConfig(depth=18, width=8),
        neck=FPNConfig(out_channels=16),
        box_head=TwoFCBoxHeadConfig(hidden=12),
        mask_head=FCNMaskHeadConfig(width=16) if masks else None,
    )
    shapes = {name: value.shape for name, value in config.build(LABELS - 1).state_dict().items()}
    dot = "" if old_names else "0."
    names = {
        "neck.lateral.c{}.0": f"backbone.fpn.inner_blocks.{{}}.{dot}",
        "neck.output.c{}.0": f"backbone.fpn.layer_blocks.{{}}.{dot}",
    }
    result: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, size in shapes.items():
        theirs = name
        if name.startswith("backbone."):
            theirs = name.replace("backbone.", "backbone.body.")
        for ours, their in names.items():
            for level in range(4):
                theirs = theirs.replace(ours.format(level + 2) + ".", their.format(level))
        for ours, their in (
            ("rpn.head.conv.", "rpn.head.conv." if old_names else "rpn.head.conv.0.0."),
            ("rpn.head.objectness", "rpn.head.cls_logits"),
            ("rpn.head.deltas", "rpn.head.bbox_pred"),
            ("roi.box_head.fc1", "roi_heads.box_head.fc6"),
            ("roi.box_head.fc2", "roi_heads.box_head.fc7"),
            ("roi.box_head.predictor.logits", "roi_heads.box_predictor.cls_score"),
            ("roi.box_head.predictor.deltas", "roi_heads.box_predictor.bbox_pred"),
            ("roi.mask_head.deconv", "roi_heads.mask_predictor.conv5_mask"),
            ("roi.mask_head.logits", "roi_heads.mask_predictor.mask_fcn_logits"),
        ):
            theirs = theirs.replace(ours, their)
        for i in range(4):
            new = f"roi_heads.mask_head.mask_fcn{i + 1}." if old_names else f"roi_heads.mask_head.{i}.0."
            theirs = theirs.replace(f"roi.mask_head.convs.{i}.0.", new)
        rows = list(size)
        if ".bbox_pred" in theirs and "roi_heads" in theirs:
            rows[0] += 4
        if "mask_fcn_logits" in theirs:
            rows[0] += 1
        result[theirs] = torch.rand(rows, generator=generator) + 0.1
    return result


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_every_tensor_finds_its_place(masks: bool, old_names: bool) -> None:
    state = source(masks=masks, old_names=old_names)
    result = convert_torchvision(state)
    assert result.num_classes == LABELS - 1
    assert len(result.matched) == len(state) == len(result.state)
    assert result.model.backbone == ResNetConfig(depth=18, width=8)
    assert (result.model.mask_head is not None) == masks
    result.model.build(result.num_classes).load_state_dict(result.state)  # strict


def test_levels_and_mask_layers_keep_their_order() -> None:
    for old_names in (False, True):
        state = source(old_names=old_names)
        by_ours = {ours: theirs for theirs, ours in convert_torchvision(state).matched}
        dot = "" if old_names else "0."
        assert by_ours["neck.lateral.c2.0.weight"] == f"backbone.fpn.inner_blocks.0.{dot}weight"
        assert by_ours["neck.output.c5.0.bias"] == f"backbone.fpn.layer_blocks.3.{dot}bias"
        third = "mask_fcn3" if old_names else "2.0"
        assert by_ours["roi.mask_head.convs.2.0.weight"] == f"roi_heads.mask_head.{third}.weight"


def test_background_moves_from_first_to_last() -> None:
    state = source()
    logits = state["roi_heads.box_predictor.cls_score.bias"]
    deltas = state["roi_heads.box_predictor.bbox_pred.bias"]
    masks = state["roi_heads.mask_predictor.mask_fcn_logits.bias"]
    ours = convert_torchvision(state).state
    assert ours["roi.box_head.predictor.logits.bias"].tolist() == [*logits[1:].tolist(), logits[0].item()]
    assert ours["roi.box_head.predictor.deltas.bias"].tolist() == deltas[4:].tolist()
    assert ours["roi.mask_head.logits.bias"].tolist() == masks[1:].tolist()


def test_classes_can_be_chosen() -> None:
    state = source()
    result = convert_torchvision(state, labels=(4, 2))
    logits = state["roi_heads.box_predictor.cls_score.bias"]
    deltas = state["roi_heads.box_predictor.bbox_pred.bias"]
    assert result.num_classes == 2
    assert result.state["roi.box_head.predictor.logits.bias"].tolist() == logits[[4, 2, 0]].tolist()
    assert result.state["roi.box_head.predictor.deltas.bias"].tolist() == [
        *deltas[16:20].tolist(),
        *deltas[8:12].tolist(),
    ]
    with pytest.raises(ConfigError, match="1 to 4"):
        convert_torchvision(state, labels=(5,))


def test_coco_has_80_labels() -> None:
    assert len(COCO_LABELS) == 80
    assert (COCO_LABELS[0], COCO_LABELS[11], COCO_LABELS[-1]) == (1, 13, 90)


def test_another_epsilon_is_worked_into_the_weights() -> None:
    state = source()
    plain, moved = convert_torchvision(state), convert_torchvision(state, bn_eps=0.0)
    prefix = "backbone.layer1.0.bn1."
    theirs = FrozenBatchNorm2d(8, eps=0.0).double()
    ours = FrozenBatchNorm2d(8).double()
    for norm, result in ((theirs, plain), (ours, moved)):
        norm.load_state_dict(
            {n.removeprefix(prefix): v for n, v in result.state.items() if n.startswith(prefix)}
        )
    for a, b in zip(theirs.scale_shift(), ours.scale_shift(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert not torch.equal(plain.state[prefix + "weight"], moved.state[prefix + "weight"])
    state["backbone.body.bn1.running_var"][0] = 0
    with pytest.raises(CheckpointError, match="variance of 0"):
        convert_torchvision(state, bn_eps=0.0)


def test_batch_counters_are_left_out_unless_wanted() -> None:
    state = source() | {"backbone.body.bn1.num_batches_tracked": torch.tensor(3)}
    result = convert_torchvision(state)
    assert [name for name, _ in result.dropped] == ["backbone.body.bn1.num_batches_tracked"]
    kept = convert_torchvision(state, batch_counts=True).state
    assert kept["backbone.bn1.num_batches_tracked"] == 3


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    def harm(state: dict[str, Tensor]) -> None:
        del state[name]

    return harm


def other_shape(state: dict[str, Tensor]) -> None:
    state["roi_heads.box_head.fc7.weight"] = torch.zeros(12, 13)


def unknown(state: dict[str, Tensor]) -> None:
    state["roi_heads.keypoint_head.0.weight"] = torch.zeros(1)


def extra_block(state: dict[str, Tensor]) -> None:
    state["backbone.body.layer3.2.conv1.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without("backbone.body.layer2.1.conv2.weight"), "layer2.1.conv2"),
        (without("backbone.fpn.inner_blocks.0.0.weight"), "neck.lateral.c2"),
        (without("roi_heads.mask_head.2.0.bias"), "mask_head.convs.2.0.bias"),
        (without("roi_heads.box_predictor.cls_score.weight"), "not the weights of a torchvision"),
        (other_shape, r"fc2.weight \[12, 13\] for \[12, 12\]"),
        (unknown, "keypoint_head"),
        (extra_block, "blocks a stage"),
    ],
)
def test_a_half_match_is_refused(harm: Callable[[dict[str, Tensor]], None], message: str) -> None:
    state = source()
    harm(state)
    with pytest.raises(CheckpointError, match=message):
        convert_torchvision(state)


def test_our_own_checkpoint_is_not_taken_for_theirs() -> None:
    with pytest.raises(CheckpointError, match="torchvision"):
        convert_torchvision(tiny.build().state_dict())


def test_the_source_is_not_written_to() -> None:
    state = source()
    copy = {name: value.clone() for name, value in state.items()}
    result = convert_torchvision(state, bn_eps=0.0)
    for value in result.state.values():
        value.zero_()
    assert all(torch.equal(state[name], copy[name]) for name in state)


def test_every_rule_is_used() -> None:
    names = [*source(), *source(old_names=True)]
    unused = [pattern for pattern, _ in RULES if not any(re.fullmatch(pattern, n) for n in names)]
    assert unused == []
