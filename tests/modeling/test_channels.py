"""Backbones for three channels take any number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.backbones.vgg import VGG16Config
from maskrcnn.modeling.channels import MeanOfThree, ThreeInTurn
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.preprocess import PreprocessConfig


def resnet(**options: Any) -> ResNetConfig:
    return ResNetConfig(depth=18, width=8, norm="gn", freeze_at=2, **options)


def config(channels: int, **options: Any) -> MaskRCNNConfig:
    values = (100.0,) * channels
    return MaskRCNNConfig(
        backbone=resnet(), preprocess=PreprocessConfig(mean=values, std=values), mask_head=None, **options
    )


def test_weights_by_hand() -> None:
    weight = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    assert torch.allclose(MeanOfThree().weight(weight, 6).flatten(), torch.full((6,), 1.5))
    assert torch.allclose(ThreeInTurn().weight(weight, 5).flatten(), torch.tensor([1.0, 2, 6, 1, 2]) * 0.6)
    assert torch.allclose(MeanOfThree().weight(weight, 1).flatten(), torch.tensor([9.0]))
    # An image whose channels are equal gives what it gave in gray.
    assert MeanOfThree().weight(weight, 7).sum() == pytest.approx(9)


@pytest.mark.parametrize("build", [resnet().build, lambda: VGG16Config().build()], ids=["resnet", "vgg"])
@pytest.mark.parametrize("channels", [1, 5])
def test_a_fitted_backbone_takes_the_channels_and_its_first_layer_trains(build: Any, channels: int) -> None:
    backbone: nn.Module = build()
    three = backbone(torch.ones(1, 3, 64, 64))
    before = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).weight.detach().clone()
    MeanOfThree().fit(backbone, channels, trained=True)
    found = backbone(torch.ones(1, channels, 64, 64))
    for level in three:
        assert torch.allclose(found[level], three[level], atol=1e-4)
    stem = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert stem.weight.requires_grad and stem.in_channels == channels
    with pytest.raises(ConfigError, match="no convolution of three channels"):
        MeanOfThree().fit(backbone, channels, trained=True)
    # Without a file's weights they are drawn anew, of the same strength.
    fresh: nn.Module = build()
    MeanOfThree().fit(fresh, channels, trained=False)
    weight = next(m for m in fresh.modules() if isinstance(m, nn.Conv2d)).weight.detach()
    assert float(weight.std()) == pytest.approx(float(before.std()) * (3 / channels) ** 0.5, rel=0.15)
    if channels == 5:
        assert not torch.equal(weight[:, 0], weight[:, 1])


def test_timm_too() -> None:
    pytest.importorskip("timm")
    from maskrcnn.modeling.backbones.timm_backbone import TimmConfig

    backbone = TimmConfig(name="resnet18").build()
    ThreeInTurn().fit(backbone, 4, trained=True)
    assert set(backbone(torch.ones(1, 4, 64, 64))) == {"c2", "c3", "c4", "c5"}


def test_the_model_takes_as_many_channels_as_it_has_means() -> None:
    model = config(5).build(2).eval()
    found = model([torch.rand(5, 40, 50) * 255, torch.zeros(5, 64, 30, dtype=torch.uint8)])
    assert len(found) == 2
    state = config(3).build(2).state_dict()
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape if k != "backbone.conv1.weight" else state[k].shape for k, v in model.state_dict().items()
    }
    with torch.device("meta"):
        assert config(7).build(2).backbone.conv1.weight.shape[1] == 7  # type: ignore[union-attr, operator]


def test_a_checkpoint_of_three_channels_starts_a_model_of_five() -> None:
    model = config(5).build(2)
    state = config(3).build(2).state_dict()
    for fitting in (MeanOfThree(), ThreeInTurn()):
        model.load_state_dict(fitting.fit_state(state, model))
        expected = fitting.weight(state["backbone.conv1.weight"], 5)
        assert torch.equal(model.backbone.conv1.weight, expected)  # type: ignore[union-attr]
    own = model.state_dict()
    assert all(
        torch.equal(v, own[k]) for k, v in MeanOfThree().fit_state(own, model).items()
    )  # fits as it is


def test_statistics_that_do_not_go_together_are_told() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.preprocess\.mean has 5 values and model\.preprocess\.std 3"
    ):
        MaskRCNNConfig(backbone=resnet(), preprocess=PreprocessConfig(mean=(1.0,) * 5)).build(2)
