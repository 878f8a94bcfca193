"""VGG16 against torchvision's, and its two fully connected layers for a box head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.backbones.vgg import VGG16Config, load_vgg_classifier


def scaled(width: int) -> Any:
    """torchvision's vgg16 with ``width`` channels in its first stage, and a small classifier."""
    plan = [c if isinstance(c, str) else c * width // 64 for c in torchvision.models.vgg.cfgs["D"]]
    with torch.device("meta"):  # its own classifier has 100 million weights
        model = torchvision.models.VGG(nn.Identity())
    model.features = torchvision.models.vgg.make_layers(plan)
    for index, layer in ((0, nn.Linear(8 * width * 49, 32)), (3, nn.Linear(32, 32)), (6, nn.Linear(32, 3))):
        model.classifier[index] = layer
    return model.eval()


def test_has_torchvisions_names_and_shapes() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16()
        ours = VGG16Config(freeze_at=0).build()
    del theirs.classifier
    assert {n: v.shape for n, v in ours.state_dict().items()} == {
        n: v.shape for n, v in theirs.state_dict().items()
    }
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert (ours.channels, ours.strides) == ({"c4": 512}, {"c4": 16})


@torch.no_grad()
def test_is_torchvisions_function_with_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = scaled(8)
    torch.save(theirs.state_dict(), tmp_path / "vgg16.pth")
    ours = VGG16Config(width=8, outputs=("c4", "c5"), weights=tmp_path / "vgg16.pth").build()
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    levels = ours.double()(x)
    theirs = theirs.double()
    for level, features in (("c4", theirs.features[:30](x)), ("c5", theirs.features(x))):
        assert features.abs().max() > 0
        assert (levels[level] - features).abs().max() <= 1e-12 * features.abs().max()
    assert levels["c4"].shape == (1, 64, 4, 6) and levels["c5"].shape == (1, 64, 2, 3)
    assert VGG16Config(width=8, outputs=("c5",)).build().strides == {"c5": 32}


@torch.no_grad()
def test_the_classifier_serves_a_box_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = scaled(4)
    torch.save(theirs.state_dict(), tmp_path / "vgg16.pth")
    fc1, fc2 = nn.Linear(32 * 49, 32), nn.Linear(32, 32)
    load_vgg_classifier(fc1, fc2, tmp_path / "vgg16.pth")
    pooled = torch.randn(2, 32, 7, 7)
    ours = fc2(fc1(pooled.flatten(1)).relu()).relu()
    assert torch.equal(ours, theirs.classifier[:5](pooled.flatten(1)))


def test_a_classifier_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save(scaled(4).state_dict(), path)
    fc1, fc2 = nn.Linear(32 * 49, 32), nn.Linear(32, 16)
    before = fc1.weight.clone()
    with pytest.raises(CheckpointError, match=r"vgg16\.pth: classifier\.0 and classifier\.3 do not fit.*fc2"):
        load_vgg_classifier(fc1, fc2, path)
    assert torch.equal(fc1.weight, before)
    torch.save(VGG16Config(width=4).build().state_dict(), path)
    with pytest.raises(CheckpointError, match="4 missing"):
        load_vgg_classifier(fc1, fc2, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_at": -1}, r"freeze_at must be in \[0, 5\]"),
        ({"width": 0}, "width must be >= 1"),
        ({"outputs": ()}, "outputs is empty"),
    ],
)
def test_what_cannot_be_built_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VGG16Config(**options).build()
