"""Heads of other code, weights and all: the v2 models of torchvision, GN heads, VGG's classifier."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead as TorchvisionRPNHead

from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.roi.box_head import ConvFCBoxHeadConfig, TwoFCBoxHeadConfig, VGGBoxHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.rpn.rpn import RPNHead
from maskrcnn.structures.seeds import seed_step


def lively(module: nn.Module) -> nn.Module:
    """Float64, with norms that are not the identity."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    return module.double()


def renamed(module: nn.Module, *rules: tuple[str, str]) -> dict[str, Tensor]:
    state = module.state_dict()
    for pattern, replacement in rules:
        state = {re.sub(f"^{pattern}", replacement, name): value for name, value in state.items()}
    return dict(state)


def test_conv_fc_with_bn_is_that_of_torchvisions_v2_models() -> None:
    torch.manual_seed(0)
    theirs = lively(FastRCNNConvFCHead((8, 5, 5), [6, 6, 6, 6], [10], norm_layer=nn.BatchNorm2d))
    predictor = FastRCNNPredictor(10, 4).double()
    ours = ConvFCBoxHeadConfig(width=6, hidden=10, pool_size=5, norm="bn").build(8, 4).double()
    # The predictors' order of classes is the converter's business; here ours takes theirs as it is.
    ours.predictor.logits = predictor.cls_score
    ours.predictor.deltas = predictor.bbox_pred
    state = renamed(theirs, (r"(\d)\.([01])\.", r"convs.\1.\2."), (r"5\.", "fcs.0."))
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert unexpected == [] and all(name.startswith("predictor.") for name in missing)
    x = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        expected = predictor(theirs(x))
        for found, wanted in zip(ours(x), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_conv_fc_with_gn_is_convolution_norm_relu() -> None:
    """Detectron2's form: no bias before a norm, 32 groups, one fully connected layer with ReLU."""
    torch.manual_seed(0)
    head = lively(ConvFCBoxHeadConfig(width=64, hidden=10, pool_size=3, norm="gn").build(8, 4))
    state = head.state_dict()
    assert sorted(name for name in state if not name.startswith("predictor.")) == sorted(
        [f"convs.{i}.{part}" for i in range(4) for part in ("0.weight", "1.weight", "1.bias")]
        + ["fcs.0.weight", "fcs.0.bias"]
    )
    x = y = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    for i in range(4):
        y = F.conv2d(y, state[f"convs.{i}.0.weight"], padding=1)
        y = F.relu(F.group_norm(y, 32, state[f"convs.{i}.1.weight"], state[f"convs.{i}.1.bias"]))
    y = F.relu(F.linear(y.flatten(1), state["fcs.0.weight"], state["fcs.0.bias"]))
    logits = F.linear(y, state["predictor.logits.weight"], state["predictor.logits.bias"])
    torch.testing.assert_close(head(x)[0], logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["bn", None])
def test_fcn_masks_are_those_of_torchvisions_v1_and_v2_models(norm: str | None) -> None:
    torch.manual_seed(0)
    theirs = lively(MaskRCNNHeads(8, [6, 6, 6, 6], 1, norm_layer=nn.BatchNorm2d if norm else None))
    predictor = MaskRCNNPredictor(6, 6, 4).double()
    ours = FCNMaskHeadConfig(width=6, pool_size=5, norm="bn" if norm else None).build(8, 4).double()
    ours.load_state_dict(
        renamed(theirs, (r"(\d)\.([01])\.", r"convs.\1.\2."))
        | renamed(predictor, ("conv5_mask", "deconv"), ("mask_fcn_logits", "logits"))
    )
    x = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        torch.testing.assert_close(ours(x), predictor(theirs(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("convs", [1, 2, 3])
def test_rpn_head_is_torchvisions(convs: int) -> None:
    torch.manual_seed(0)
    theirs = TorchvisionRPNHead(8, 3, conv_depth=convs).double()
    ours = RPNHead(8, 3, convs=convs).double()
    state = renamed(
        theirs,
        (r"conv\.0\.0\.", "conv."),
        (r"conv\.1\.0\.", "more.0."),
        (r"conv\.2\.0\.", "more.1."),
        ("cls_logits", "objectness"),
        ("bbox_pred", "deltas"),
    )
    with torch.no_grad():
        for value in state.values():
            value.normal_(std=0.2)
    ours.load_state_dict(state)
    levels = [torch.randn(2, 8, 4, 6, dtype=torch.float64), torch.randn(2, 8, 2, 3, dtype=torch.float64)]
    for logits, deltas, logit_map, delta_map in zip(*ours(levels), *theirs(levels), strict=True):
        wanted = logit_map.permute(0, 2, 3, 1).flatten(1)
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-12)
        wanted = delta_map.unflatten(1, (3, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        torch.testing.assert_close(deltas, wanted, rtol=0, atol=1e-12)


def test_rpn_head_names_and_width() -> None:
    assert [n for n, _ in RPNHead(8, 3).named_parameters() if n.endswith("weight")] == [
        "conv.weight", "objectness.weight", "deltas.weight",
    ]  # fmt: skip
    head = RPNHead(8, 3, convs=3, width=5)
    assert {n: tuple(p.shape) for n, p in head.named_parameters() if n.endswith("weight")} == {
        "conv.weight": (5, 8, 3, 3),
        "more.0.weight": (5, 5, 3, 3),
        "more.1.weight": (5, 5, 3, 3),
        "objectness.weight": (3, 5, 1, 1),
        "deltas.weight": (12, 5, 1, 1),
    }
    assert head([torch.zeros(2, 8, 4, 4)])[1][0].shape == (2, 48, 4)


def classifier(channels: int, side: int, hidden: int) -> nn.Sequential:
    """The first six layers of VGG's classifier, as torchvision builds them."""
    return nn.Sequential(
        nn.Linear(channels * side**2, hidden), nn.ReLU(), nn.Dropout(),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
    )  # fmt: skip


def test_vgg_fc_is_vggs_classifier_dropout_and_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = classifier(4, 3, 16)
    path = tmp_path / "vgg16.pth"
    state = {f"classifier.{name}": value for name, value in theirs.state_dict().items()}
    torch.save(state | {"features.0.weight": torch.zeros(1)}, path)
    ours = VGGBoxHeadConfig(hidden=16, pool_size=3, weights=path).build(4, 2)
    seen: list[Tensor] = []
    ours.predictor.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    x = torch.randn(5, 4, 3, 3)
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        torch.manual_seed(7)
        expected = theirs(x.flatten(1))
        torch.manual_seed(7)
        ours(x)
        assert torch.equal(seen[-1], expected)
    with pytest.raises(CheckpointError, match=r"vgg16\.pth.*do not fit the box head"):
        VGGBoxHeadConfig(hidden=8, pool_size=3, weights=path).build(4, 2)
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        VGGBoxHeadConfig(hidden=8, pool_size=3, weights=tmp_path / "absent.pth").build(4, 2)


def test_dropout_is_a_function_of_seed_step_rank_and_micro_step() -> None:
    torch.manual_seed(0)
    head = TwoFCBoxHeadConfig(hidden=64, pool_size=3, dropout=0.5).build(4, 2)
    pooled = torch.randn(5, 4, 3, 3)

    def logits(*place: int) -> Tensor:
        torch.rand(13)  # whatever ran before
        seed_step(*place)
        found: Tensor = head(pooled)[0]
        return found

    here = logits(5, 10, 0, 0)
    assert torch.equal(here, logits(5, 10, 0, 0))
    for other in ((6, 10, 0, 0), (5, 11, 0, 0), (5, 10, 1, 0), (5, 10, 0, 1)):
        assert not torch.equal(here, logits(*other))
