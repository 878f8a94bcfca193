"""ResNet, ResNeXt and Wide ResNet against torchvision's, the dilated fifth stage, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.backbones.resnet import LEVELS, ResNetConfig
from maskrcnn.modeling.norms import FrozenBatchNorm2d

PUBLISHED: dict[str, dict[str, Any]] = {
    "resnet18": {"depth": 18},
    "resnet34": {"depth": 34},
    "resnet50": {"depth": 50},
    "resnet101": {"depth": 101},
    "resnet152": {"depth": 152},
    "resnext50_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4},
    "resnext101_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {"depth": 101, "groups": 64, "width_per_group": 4},
    "wide_resnet50_2": {"depth": 50, "width_per_group": 128},
}


def classifier(name: str, **options: Any) -> Any:
    """torchvision's, with cheap random weights and statistics that keep activations near 1."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=3, **options)
    model = model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.uniform_(-1, 1).mul_((4 / fan_in) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.weight.data.uniform_(0.5, 1)
            module.bias.data.uniform_(-0.5, 0.5)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Linear):
            module.reset_parameters()
    return model.eval()


def stages(model: Any, x: Tensor) -> dict[str, Tensor]:
    """c2..c5 of torchvision's classifier."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    levels = {}
    for i, level in enumerate(LEVELS):
        x = model.get_submodule(f"layer{i + 1}")(x)
        levels[level] = x
    return levels


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for level, features in ours.items():
        worst = (features - theirs[level]).abs().max() / theirs[level].abs().max()
        assert worst < 1e-12, f"{level} differs by {worst:.1e} of its maximum"


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_as_many_parameters_as_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
        ours = ResNetConfig(**PUBLISHED[name], norm="bn", freeze_at=0).build()
    del theirs.fc
    assert {n: v.shape for n, v in ours.state_dict().items()} == {
        n: v.shape for n, v in theirs.state_dict().items()
    }
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        pytest.param("wide_resnet50_2", marks=pytest.mark.slow),
        pytest.param("resnext101_32x8d", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_is_torchvisions_function_with_its_weights(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = classifier(name)
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = stages(theirs.double(), x)
    config = ResNetConfig(**PUBLISHED[name], weights=tmp_path / "imagenet.pth")
    assert_same(config.build().double().eval()(x), expected)


@torch.no_grad()
def test_dilated_c5_is_detectron2s(tmp_path: Path) -> None:
    """Its first 3x3 convolution is dilated too; torchvision's keeps dilation 1 there."""
    torch.manual_seed(2)
    theirs = classifier("resnet50", replace_stride_with_dilation=[False, False, True])
    theirs.layer4[0].conv2.dilation = theirs.layer4[0].conv2.padding = (2, 2)
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    config = ResNetConfig(dilated_c5=True, norm="bn", outputs=("c4", "c5"), weights=tmp_path / "imagenet.pth")
    ours = config.build().double().eval()
    assert ours.strides == {"c4": 16, "c5": 16}
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    levels = ours(x)
    assert levels["c5"].shape == (1, 2048, 4, 6)
    assert_same(levels, stages(theirs.double(), x))
    convs = [m for m in ours.get_submodule("layer4").modules() if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convs if m.kernel_size == (3, 3)] == [2, 2, 2]
    assert all(m.stride == (1, 1) for m in convs)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_stride_is_in_the_convolution_that_was_asked_for(groups: int) -> None:
    for in_1x1, expected in ((True, (2, 1)), (False, (1, 2))):
        config = ResNetConfig(depth=50, width=8, groups=groups, stride_in_1x1=in_1x1)
        block = config.build().get_submodule("layer3.0")
        assert (block.conv1.stride[0], block.conv2.stride[0]) == expected
        assert block.downsample[0].stride == (2, 2)
        assert block.conv2.groups == groups


def test_weights_of_stages_that_are_not_built_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "imagenet.pth"
    torch.save(ResNetConfig(depth=18, width=4).build().state_dict(), path)
    ours = ResNetConfig(depth=18, width=4, outputs=("c4",), weights=path).build()
    assert not hasattr(ours, "layer4")
    saved = torch.load(path, weights_only=True)
    assert all(torch.equal(v, saved[n]) for n, v in ours.state_dict().items())


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(ResNetConfig(depth=34, width=4).build().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"other\.pth.*do not fit the backbone.*without a place"):
        ResNetConfig(depth=18, width=4, weights=path).build()
    torch.save(ResNetConfig(depth=18, width=4).build().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"other\.pth.*missing"):
        ResNetConfig(depth=34, width=4, weights=path).build()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth must be one of 18, 34"),
        ({"freeze_at": 6}, r"freeze_at must be in \[0, 5\]"),
        ({"width": 0}, "width must be >= 1"),
        ({"groups": 0}, "groups must be >= 1"),
        ({"width_per_group": 0}, "width_per_group must be >= 1"),
        ({"outputs": ()}, "outputs is empty"),
        ({"depth": 34, "groups": 32}, "bottleneck blocks"),
        ({"depth": 18, "dilated_c5": True}, "bottleneck blocks"),
        ({"depth": 18, "stride_in_1x1": True}, "stride_in_1x1 moves .* depth 18 has none of; leave it out"),
        ({"depth": 34, "stride_in_1x1": True}, "bottleneck blocks"),
        ({"dilated_c5": True, "outputs": ("c4",)}, "outputs leaves out"),
        ({"zero_init_residual": True}, "needs a norm that trains"),
    ],
)
def test_what_cannot_be_built_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResNetConfig(**options).build()


def test_zero_init_starts_blocks_as_the_identity() -> None:
    backbone = ResNetConfig(depth=50, width=8, norm="gn", zero_init_residual=True).build()
    block = backbone.get_submodule("layer2.1")
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(block(x), x.relu())


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
