"""The C4 trunk: the sizes of both published forms, the backbone's weights and freezing, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.backbones.vgg import VGG16Config
from maskrcnn.modeling.interfaces import ROI_TRUNKS
from maskrcnn.modeling.roi.trunk import Res5Trunk, Res5TrunkConfig
from tests.modeling.backbones.test_resnet import PUBLISHED, classifier

SMALL = ResNetConfig(depth=50, width=8, outputs=("c4",))


def test_published_sizes() -> None:
    """He et al. 2017, figure 4: 7x7x1024 -> 7x7x2048; Detectron2: 14x14x1024 -> 7x7x2048."""
    for c4, size, stride in (("paper", 7, 1), ("detectron2", 14, 2)):
        with torch.device("meta"):
            trunk = Res5TrunkConfig(c4=c4).build(ResNetConfig(outputs=("c4",)), 1024)
            assert trunk(torch.empty(3, 1024, size, size)).shape == (3, 2048, 7, 7)
            assert trunk(torch.empty(0, 1024, size, size)).shape == (0, 2048, 7, 7)
        assert (trunk.pool_size, trunk.output_size, trunk.channels) == (size, 7, 2048)
        strides = {m.stride[0] for m in trunk.modules() if isinstance(m, nn.Conv2d)}
        assert strides == {1, stride}
        assert all(m.dilation == (1, 1) for m in trunk.modules() if isinstance(m, nn.Conv2d))


@torch.no_grad()
def test_backbone_and_trunk_are_torchvisions_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "imagenet.pth"
    theirs = classifier("resnext50_32x4d")
    torch.save(theirs.state_dict(), path)
    config = ResNetConfig(outputs=("c4",), weights=path, **PUBLISHED["resnext50_32x4d"])
    backbone = config.build().double().eval()
    trunk = Res5TrunkConfig(c4="detectron2").build(config, backbone.channels["c4"]).double().eval()
    assert next(iter(trunk.state_dict())).startswith("layer4.0.")
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    ours: Tensor = trunk(backbone(x)["c4"])
    theirs.avgpool = theirs.fc = nn.Identity()
    expected = theirs.double().eval()(x).view_as(ours)
    assert (ours - expected).abs().max() < 1e-12 * expected.abs().max()


def test_it_follows_the_backbones_config() -> None:
    config = replace(SMALL, norm="gn", stride_in_1x1=True, groups=4, zero_init_residual=True)
    block = Res5TrunkConfig().build(config, 128).layer4[0]
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)
    assert block.conv2.groups == 4 and isinstance(block.bn1, nn.GroupNorm)
    assert not block.bn3.weight.any()
    shallow = Res5TrunkConfig(c4="paper").build(replace(SMALL, depth=18), 32)
    assert shallow(torch.randn(2, 32, 7, 7)).shape == (2, shallow.channels, 7, 7) == (2, 64, 7, 7)


@pytest.mark.parametrize("freeze_at", [4, 5])
def test_freeze_at_five_freezes_it(freeze_at: int) -> None:
    trunk = Res5TrunkConfig().build(replace(SMALL, norm="bn", freeze_at=freeze_at), 128).eval().train()
    assert all(p.requires_grad == (freeze_at < 5) for p in trunk.parameters())
    before = {n: v.clone() for n, v in trunk.state_dict().items() if "running" in n}
    trunk(torch.randn(2, 128, 14, 14))
    after = trunk.state_dict()
    assert all(torch.equal(v, after[n]) == (freeze_at == 5) for n, v in before.items())


def test_no_rois_leave_gradients_and_statistics_alone() -> None:
    trunk: Res5Trunk = Res5TrunkConfig().build(replace(SMALL, norm="bn"), 128).train()
    trunk(torch.zeros(0, 128, 14, 14)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in trunk.parameters())
    assert all(torch.isfinite(v).all() for v in trunk.state_dict().values())


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    assert ROI_TRUNKS.get("res5") is Res5TrunkConfig
    with pytest.raises(ConfigError, match="is the last stage of a ResNet"):
        Res5TrunkConfig().build(VGG16Config(), 512)
    with pytest.raises(ConfigError, match=r"builds c5 too; set model\.backbone\.outputs to \[c4\]"):
        Res5TrunkConfig().build(ResNetConfig(), 1024)
    with pytest.raises(ConfigError, match="128 channels, but RoIs are pooled from 256"):
        Res5TrunkConfig().build(SMALL, 256)
    path = tmp_path / "c4.pth"
    torch.save(SMALL.build().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"c4\.pth.*missing"):
        Res5TrunkConfig().build(replace(SMALL, weights=path), 128)
