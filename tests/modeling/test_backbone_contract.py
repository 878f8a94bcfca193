"""What every registered backbone keeps, whatever its type: levels, strides, gradients, modes, state."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.interfaces import BACKBONES, Backbone
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from tests.modeling import tiny

#: Small members of each registered family, nothing frozen.
SMALL: dict[str, list[dict[str, Any]]] = {
    "resnet": [
        {"depth": 18, "width": 8, "norm": "gn", "freeze_at": 0},
        {"depth": 50, "width": 8, "norm": "bn", "freeze_at": 0},
        {"depth": 50, "width": 8, "norm": "frozen_bn", "freeze_at": 0, "stride_in_1x1": True},
        {"depth": 50, "width": 8, "norm": "gn", "freeze_at": 0, "groups": 4, "width_per_group": 32},
        {"depth": 50, "width": 8, "norm": "sync_bn", "freeze_at": 0, "dilated_c5": True},
        {"depth": 18, "width": 8, "norm": "bn", "freeze_at": 0, "outputs": ("c4",)},
    ],
    "vgg16": [
        {"width": 4, "freeze_at": 0},
        {"width": 4, "freeze_at": 0, "outputs": ("c4", "c5")},
    ],
    "timm": [
        {"name": "test_resnet", "frozen_bn": False},
        {"name": "test_convnext", "outputs": ("c3", "c4")},
        {"name": "test_mambaout", "outputs": ("c5",)},  # gives channels last of all
        {
            "name": "test_vit",
            "outputs": ("c4",),
            "options": {"dynamic_img_size": True, "dynamic_img_pad": True},
        },
    ],
}
#: What freezes a family's first parts, and the names of the parameters in them.
FROZEN: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("resnet", {"depth": 18, "width": 8, "norm": "bn", "freeze_at": 1}, ("conv1.", "bn1.")),
    (
        "resnet",
        {"depth": 50, "width": 8, "norm": "bn", "freeze_at": 3},
        ("conv1.", "bn1.", "layer1.", "layer2."),
    ),
    ("resnet", {"depth": 18, "width": 8, "norm": "gn", "freeze_at": 5}, ("",)),
    ("vgg16", {"width": 4, "freeze_at": 1}, ("features.0.", "features.2.")),
    ("vgg16", {"width": 4, "freeze_at": 2}, ("features.0.", "features.2.", "features.5.", "features.7.")),
    ("vgg16", {"width": 4, "freeze_at": 5}, ("",)),
    (
        "timm",
        {"name": "test_resnet", "freeze": ("conv1", "bn1", "layer1"), "frozen_bn": False},
        ("net.conv1.", "net.bn1.", "net.layer1."),
    ),
]
SIZES = ((64, 96), (65, 99), (79, 64), (33, 34))


def skip_without_timm(name: str) -> None:
    if name == "timm" and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed (pip install maskrcnn[timm])")


def case_name(value: Any) -> str | None:
    return "-".join(f"{v}" for v in value.values()) if isinstance(value, dict) else None


@pytest.fixture(
    params=[(n, options) for n, each in SMALL.items() for options in each],
    ids=lambda case: f"{case[0]}-{case_name(case[1])}",
)
def config(request: pytest.FixtureRequest) -> Any:
    name, options = request.param
    skip_without_timm(name)
    torch.manual_seed(0)
    return BACKBONES.get(name)(**options)


def total(features: dict[str, Tensor]) -> Tensor:
    return torch.stack([f.float().square().mean() for f in features.values()]).sum()


def settle(backbone: Backbone) -> Backbone:
    """Statistics of the data, so that evaluation is well scaled; then evaluation."""
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    backbone.train()
    with torch.no_grad():
        backbone(torch.randn(4, 3, 64, 64))
    return backbone.eval()


def test_every_registered_backbone_is_here() -> None:
    # Plugins that other tests register do not count.
    ours = [name for name in BACKBONES.names() if BACKBONES.get(name).__module__.startswith("maskrcnn.")]
    assert sorted(SMALL) == ours
    assert {name for name, _, _ in FROZEN} == set(SMALL)


def test_levels_and_strides_of_any_size(config: Any) -> None:
    backbone = config.build().eval()
    assert list(backbone.channels) == list(backbone.strides)
    assert sorted(backbone.strides.values()) == list(backbone.strides.values())
    for height, width in SIZES:
        with torch.no_grad():
            levels = backbone(torch.randn(2, 3, height, width))
        assert list(levels) == list(backbone.channels)
        for level, features in levels.items():
            stride = backbone.strides[level]
            assert features.shape[:2] == (2, backbone.channels[level])
            for cells, pixels in zip(features.shape[2:], (height, width), strict=True):
                # Whole cells; what is left over at the right and below is a cell of its own, or is cut off.
                assert cells in (pixels // stride, -(-pixels // stride))


def test_gradients_reach_the_input_and_all_parameters(config: Any) -> None:
    backbone = config.build().train()
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    levels = backbone(x)
    for features in levels.values():
        (gradient,) = torch.autograd.grad(features.square().sum(), x, retain_graph=True)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    total(levels).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad and parameter.grad is not None, name


def test_an_empty_batch(config: Any) -> None:
    if getattr(config, "name", "") == "test_vit":
        pytest.skip("timm's attention cannot reshape an empty batch; a model is never given one")
    backbone = config.build()
    for mode in (True, False):
        backbone.train(mode)
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        levels = backbone(torch.zeros(0, 3, 64, 64))
        for level, features in levels.items():
            stride = backbone.strides[level]
            assert features.shape == (0, backbone.channels[level], 64 // stride, 64 // stride)
        levels = {name: features.sum() for name, features in levels.items()}
        torch.stack(list(levels.values())).sum().backward()
        for name, value in backbone.state_dict().items():
            assert torch.isfinite(value).all(), f"{name} after an empty batch"
            assert name.endswith("num_batches_tracked") or torch.equal(value, before[name]), name


def test_a_step_lowers_the_loss(config: Any) -> None:
    backbone = config.build().train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)
    x = torch.randn(2, 3, 64, 64)
    wanted = {name: torch.randn_like(f) for name, f in backbone(x).items()}
    losses = []
    for _ in range(3):
        loss = total({name: f - wanted[name] for name, f in backbone(x).items()})
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_model_on_it_trains_and_predicts(config: Any) -> None:
    level = (list(config.build().channels)[-1],)
    model = tiny.build(
        backbone=config,
        neck=None,
        rpn=replace(tiny.CONFIG.rpn, levels=level, anchors=AnchorConfig(sizes=((16.0, 32.0),))),
        roi=replace(tiny.CONFIG.roi, levels=level),
    )
    images = tiny.images()
    targets = tiny.targets([[10.0, 10.0, 60.0, 50.0]], [[5.0, 5.0, 40.0, 60.0]])
    losses = model.train().losses(images, targets, tiny.seeds())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.backbone.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    for image, found in zip(images, model.predict(images), strict=True):
        assert found.boxes.shape == (len(found), 4) and torch.isfinite(found.scores).all()
        assert (found.boxes[:, 2] <= image.shape[2]).all() and (found.boxes[:, 3] <= image.shape[1]).all()


def test_evaluation_treats_every_image_alone_and_changes_nothing(config: Any) -> None:
    backbone = settle(config.build())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        both = backbone(x)
        for level, features in backbone(x[1:]).items():
            assert torch.allclose(features, both[level][1:], rtol=1e-4, atol=1e-4 * both[level].abs().max())
        for level, features in backbone(x.to(memory_format=torch.channels_last)).items():
            assert torch.allclose(features, both[level], rtol=1e-4, atol=1e-4 * both[level].abs().max())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_half_precision_autocast(config: Any) -> None:
    """The same but for rounding, which grows from layer to layer in a random network, and 8 times less in
    float16 (10 bits) than in bfloat16 (7 bits).
    """
    backbone = settle(config.build())
    x = torch.randn(2, 3, 64, 64)
    full = backbone(x)
    for dtype, tolerance in ((torch.bfloat16, 0.6), (torch.float16, 0.1)):
        with torch.autocast("cpu", dtype=dtype):
            half = backbone(x)
        for level, features in half.items():
            error = (features.float() - full[level]).norm() / full[level].norm()
            assert error < tolerance, f"{level}, {dtype}: {error}"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(backbone.train()(x))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())


def test_saved_and_loaded_it_is_the_same(config: Any, tmp_path: Path) -> None:
    backbone = settle(config.build())
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    again = config.build().eval()
    x = torch.randn(1, 3, 64, 64)
    assert any(not torch.equal(f, again(x)[level]) for level, f in backbone(x).items())
    again.load_state_dict(torch.load(tmp_path / "backbone.pth", weights_only=True))
    for level, features in backbone(x).items():
        assert torch.equal(features, again(x)[level])


@pytest.mark.parametrize(("name", "options", "prefixes"), FROZEN, ids=case_name)
def test_frozen_parts_keep_weights_and_statistics(
    name: str, options: dict[str, Any], prefixes: tuple[str, ...]
) -> None:
    skip_without_timm(name)
    torch.manual_seed(0)
    backbone = BACKBONES.get(name)(**options).build().eval().train()
    for key, parameter in backbone.named_parameters():
        assert parameter.requires_grad != key.startswith(prefixes), key
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))
    for key, value in backbone.state_dict().items():
        if "running" in key or "tracked" in key:
            assert torch.equal(value, before[key]) == key.startswith(prefixes), key


@pytest.mark.parametrize("name", list(SMALL))
def test_weights_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    skip_without_timm(name)
    options = {key: value for key, value in SMALL[name][0].items() if key != "weights"}
    config = BACKBONES.get(name)
    path = tmp_path / "other.pth"
    torch.save({"conv9.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"other\.pth: these weights do not fit.*1 without a place"):
        config(**options, weights=path).build()
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"other\.pth: not a readable"):
        config(**options, weights=path).build()
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such checkpoint file"):
        config(**options, weights=tmp_path / "absent.pth").build()
