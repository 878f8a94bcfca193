"""What every registered backbone keeps: levels, strides, gradients, state, ImageNet weights or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.resnet import FrozenBatchNorm2d, ResNetConfig
from maskrcnn.modeling.registries import BACKBONES

#: A small member of each registered family.
SMALL: dict[str, list[dict[str, Any]]] = {
    "resnet": [
        {"depth": 18, "width": 8, "norm": "gn", "freeze_at": 0},
        {"depth": 50, "width": 8, "norm": "bn", "freeze_at": 0},
        {"depth": 50, "width": 8, "norm": "frozen_bn", "freeze_at": 0, "stride_in_1x1": True},
    ]
}
CASES = [(name, options) for name, all_options in SMALL.items() for options in all_options]


def test_every_registered_backbone_is_here() -> None:
    # Plugins that other tests register do not count.
    ours = [name for name in BACKBONES.names() if BACKBONES.get(name).__module__.startswith("maskrcnn.")]
    assert sorted(SMALL) == ours


@pytest.mark.parametrize(("name", "options"), CASES)
def test_levels_strides_gradient_and_state(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = BACKBONES.get(name)(**options)
    backbone = config.build()
    x = torch.randn(2, 3, 64, 96, requires_grad=True)
    levels = backbone(x)
    assert list(levels) == list(backbone.channels) == list(backbone.strides)
    for level, features in levels.items():
        stride = backbone.strides[level]
        assert features.shape == (2, backbone.channels[level], 64 // stride, 96 // stride)
        (gradient,) = torch.autograd.grad(features.sum(), x, retain_graph=True)
        assert gradient.abs().sum() > 0
    again = config.build()
    again.load_state_dict(backbone.state_dict())
    backbone.eval()
    again.eval()
    for level, features in backbone(x).items():
        assert torch.equal(features, again(x)[level])
        assert torch.isfinite(backbone(x.bfloat16().float())[level]).all()


@pytest.mark.parametrize("depth", [18, 50])
def test_is_torchvisions_function_with_its_weights(depth: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = getattr(torchvision.models, f"resnet{depth}")()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    ours = ResNetConfig(depth=depth, weights=tmp_path / "imagenet.pth").build().double().eval()
    theirs = theirs.double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for level, stage in zip(("c2", "c3", "c4", "c5"), (1, 2, 3, 4), strict=True):
        y = getattr(theirs, f"layer{stage}")(y)
        assert torch.allclose(ours(x)[level], y, rtol=1e-9, atol=1e-9)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"other\.pth.*do not fit the backbone"):
        ResNetConfig(depth=18, weights=path).build()
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        ResNetConfig(depth=18, weights=path).build()
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        ResNetConfig(depth=18, weights=tmp_path / "absent.pth").build()


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_frozen_stages(freeze_at: int) -> None:
    backbone = ResNetConfig(depth=18, width=8, norm="bn", freeze_at=freeze_at).build().train()
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    free = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    stages = [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]
    assert frozen == set().union(*stages[:freeze_at])
    assert free == set().union(*stages[freeze_at:])
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running" in k}
    backbone(torch.randn(2, 3, 64, 64))
    for key, value in backbone.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) == (key.split(".")[0] in frozen), key


def test_frozen_norm_is_an_affine_map() -> None:
    norm = FrozenBatchNorm2d(2)
    norm.load_state_dict(
        {
            "weight": torch.tensor([2.0, 1.0]),
            "bias": torch.tensor([1.0, 0.0]),
            "running_mean": torch.tensor([3.0, 0.0]),
            "running_var": torch.tensor([4.0, 1.0]) - 1e-5,
        }
    )
    x = torch.tensor([5.0, 7.0]).view(1, 2, 1, 1)
    assert norm(x).flatten().tolist() == pytest.approx([3.0, 7.0])
    assert not list(norm.parameters())
