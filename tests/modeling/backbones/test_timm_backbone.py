"""The adapter for timm: its features, its weights files, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.backbones.timm_backbone import TimmConfig


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        TimmConfig(name="resnet18").build()


@pytest.fixture(scope="module")
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed (pip install maskrcnn[timm])")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
@torch.no_grad()
def test_is_timms_function_with_its_weights(timm: Any, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = timm.create_model(name, num_classes=7).double().eval()
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    outputs = ("c4",) if name == "test_vit" else ("c3", "c5")
    ours = TimmConfig(name=name, outputs=outputs, weights=tmp_path / "weights.pth").build().double().eval()
    x = torch.randn(1, 3, 160, 160, dtype=torch.float64)
    by_channels = classifier.forward_intermediates(x, intermediates_only=True)
    for level, features in ours(x).items():
        size = 160 // ours.strides[level]
        fitting = [f for f in by_channels if f.shape == (1, ours.channels[level], size, size)]
        assert (features - fitting[-1]).abs().max() < 1e-12 * features.abs().max()


def test_levels_in_any_order_are_named_by_their_stride(timm: Any) -> None:
    ours = TimmConfig(name="test_resnet", outputs=("c5", "c1")).build()
    assert ours.strides == {"c1": 2, "c5": 32} and ours.channels == {"c1": 32, "c5": 96}
    levels = ours(torch.randn(2, 3, 64, 64))
    assert [f.shape for f in levels.values()] == [(2, 32, 32, 32), (2, 96, 2, 2)]


def test_layers_above_the_last_level_are_not_built(timm: Any) -> None:
    names = {n.split(".")[1] for n in TimmConfig(name="test_resnet", outputs=("c3",)).build().state_dict()}
    assert names == {"conv1", "bn1", "layer1", "layer2"}


def test_frozen_bn_keeps_statistics_and_affine(timm: Any) -> None:
    ours = TimmConfig(name="test_resnet", outputs=("c5",)).build().eval().train()
    before = {n: v.clone() for n, v in ours.state_dict().items()}
    ours(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(v, before[n]) for n, v in ours.state_dict().items())
    free = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert free and not any(".bn" in n for n in free)


def test_weights_of_a_deeper_relative_are_refused(timm: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    state = timm.create_model("test_resnet").state_dict()
    deeper = {n.replace("layer4.0", "layer4.1"): v for n, v in state.items() if n.startswith("layer4")}
    torch.save(state | deeper, path)
    with pytest.raises(CheckpointError, match=r"other\.pth.*do not fit timm's test_resnet.*layer4\.1"):
        TimmConfig(name="test_resnet", outputs=("c4",), weights=path).build()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, "'resnet81' is no model of timm.*Did you mean"),
        ({"name": "hf-hub:someone/model"}, "is no model of timm"),
        ({"name": "test_resnet", "outputs": ("c6",)}, r"outputs is \[c6\].*gives \[c1, c2, c3, c4, c5\]"),
        ({"name": "test_resnet", "outputs": ()}, r"outputs is \[\]"),
        ({"name": "test_vit", "outputs": ("c3", "c4")}, r"gives \[c4\]"),
        ({"name": "test_resnet", "freeze": ("layer9",)}, r"'layer9', but test_resnet has \[conv1, bn1"),
        ({"name": "test_resnet", "options": {"no_such": True}}, "cannot build test_resnet.*no_such"),
    ],
)
def test_what_cannot_be_built_is_said(timm: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TimmConfig(**options).build()
