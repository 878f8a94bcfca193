"""ImageNet classifiers of three makers to weights that the backbones read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet, vgg16

from maskrcnn.cli import main
from maskrcnn.convert.classifier import convert_classifier, maker_of
from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.resnet import ResNetConfig


def real(depth: int = 50, width: int = 8, groups: int = 1) -> dict[str, Tensor]:
    """Our ResNet's random weights, whose names are torchvision's, and the layer behind them."""
    torch.manual_seed(0)
    config = ResNetConfig(depth=depth, width=width, groups=groups)  # type: ignore[arg-type]
    state = {n: torch.rand(v.shape) + 0.1 for n, v in config.build().state_dict().items()}
    return {**state, "fc.weight": torch.rand(10, 32 * width), "fc.bias": torch.rand(10)}


def detectron2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As its script converts torchvision's file: what is no stage is the stem, the last layer too."""
    result = {}
    for name, value in state.items():
        new = re.sub(r"bn(\d)", r"conv\1.norm", name)
        new = new.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        new = re.sub(r"layer(\d)", lambda m: f"res{int(m[1]) + 1}", new) if "layer" in new else f"stem.{new}"
        result[new] = value
    return result


def caffe2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As MSRA's file in Detectron's names: norms are a scale and a shift, colours are B, G, R."""
    result = {"conv1_b": torch.zeros(8)}
    suffix = {"weight": "s", "bias": "b"}
    for name, value in state.items():
        if "running" in name:
            continue
        if name.startswith("fc."):
            result[f"fc1000_{'w' if name.endswith('weight') else 'b'}"] = value
        elif name == "conv1.weight":
            result["conv1_w"] = value.flip(1)
        elif name.startswith("bn1."):
            result[f"res_conv1_bn_{suffix[name[4:]]}"] = value
        else:
            stage, block, layer = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
            branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "bn1": "2a", "bn2": "2b", "bn3": "2c"}
            head = layer.split(".")[0]
            part = "1" if head == "downsample" else branch[head]
            kind = layer.rsplit(".", 1)[1]
            end = "w" if "conv" in layer or "downsample.0" in layer else f"bn_{suffix[kind]}"
            result[f"res{int(stage) + 1}_{block}_branch{part}_{end}"] = value
    return result


def test_torchvisions_are_taken_as_they_are() -> None:
    state = real(18)
    result = convert_classifier(state | {"bn1.num_batches_tracked": torch.tensor(3)})
    assert result.maker == "torchvision" and not result.reading.bgr
    assert all(value.equal(state[name]) for name, value in result.state.items())
    assert {name for name, _ in result.dropped} == {"fc.weight", "fc.bias", "bn1.num_batches_tracked"}


def test_torchvisions_own_networks_are_recognised() -> None:
    with torch.device("meta"):
        models = [resnet.resnet34(), resnet.resnext50_32x4d(), resnet.wide_resnet50_2(), vgg16()]
    configs = [convert_classifier(model.state_dict()).config for model in models]
    assert configs[:3] == [
        ResNetConfig(depth=34),
        ResNetConfig(groups=32, width_per_group=4),
        ResNetConfig(width_per_group=128),
    ]
    found = convert_classifier(models[3].state_dict())
    assert {"features.28.bias", "classifier.3.weight"} <= set(found.state)
    assert {name for name, _ in found.dropped} == {"classifier.6.weight", "classifier.6.bias"}


def test_detectron2s_file_of_torchvisions_weights() -> None:
    state = real()
    result = convert_classifier(detectron2_names(state))
    assert result.maker == "detectron2" and not result.reading.bgr
    assert set(result.state) == set(state) - {"fc.weight", "fc.bias"}
    assert all(value.equal(state[name]) for name, value in result.state.items())


def test_msras_file() -> None:
    state = real()
    result = convert_classifier(caffe2_names(state))
    assert result.maker == "caffe2" and result.reading.bgr
    assert result.reading.mean == (123.675, 116.28, 103.53) and result.reading.std == (1.0, 1.0, 1.0)
    assert isinstance(result.config, ResNetConfig) and result.config.stride_in_1x1
    assert {name for name, _ in result.dropped} == {"conv1_b", "fc1000_w", "fc1000_b"}
    for name, value in result.state.items():
        if name.endswith("running_mean"):
            assert not value.any()
        elif name.endswith("running_var"):
            assert value.add(1e-5).sub(1).abs().max() < 1e-7
        else:
            assert value.equal(state[name]), name


def test_fairs_files() -> None:
    state = {
        name.replace("_bn_", "_gn_"): value
        for name, value in caffe2_names(real()).items()
        if name != "conv1_b"
    }
    group = convert_classifier(state)
    assert isinstance(group.config, ResNetConfig)
    assert (group.config.norm, group.config.stride_in_1x1) == ("gn", False)
    assert not [name for name in group.state if "running" in name]
    grouped = convert_classifier(caffe2_names(real(groups=2)))
    assert isinstance(grouped.config, ResNetConfig)
    assert (grouped.config.groups, grouped.config.stride_in_1x1) == (2, False)
    assert grouped.reading.std == (58.395, 57.12, 57.375)


def test_a_half_match_is_refused() -> None:
    state = real()
    del state["layer2.1.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(layer2.1.conv2.weight\)"):
        convert_classifier(state)
    with pytest.raises(CheckpointError, match="have no place here"):
        convert_classifier({**real(), "layer5.0.conv1.weight": torch.ones(1)})
    assert maker_of({"a": torch.ones(1)}) is None


def test_the_command_writes_weights_that_a_backbone_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(detectron2_names(real(18)), tmp_path / "theirs.pth")
    out = tmp_path / "ours.pth"
    assert main(["convert", "--from", "detectron2", str(tmp_path / "theirs.pth"), str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"weights: {out}" in printed and "depth: 18" in printed
    built = ResNetConfig(depth=18, width=8, weights=out).build()
    assert isinstance(built, nn.Module)
    assert built.state_dict()["layer4.1.conv2.weight"].equal(real(18)["layer4.1.conv2.weight"])
    assert main(["convert", str(tmp_path / "theirs.pth"), str(out), "--drop-head"]) == 2
    assert "an ImageNet classifier takes no" in capsys.readouterr().err
