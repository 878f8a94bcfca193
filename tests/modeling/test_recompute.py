"""Activations that are computed anew: the same losses, gradients and statistics to the bit, and less
memory.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.console import Console
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.backbones.vgg import VGG16Config
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.precision import autocast
from maskrcnn.modeling.recompute import recompute_backbone
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train
from tests.engine.tiny import write_recipe
from tests.modeling.tiny import build
from tests.rules.pages import ROOT

CPU = torch.device("cpu")


def pass_through(model: MaskRCNN, precision: Any = "float32") -> dict[str, Any]:
    """The backbone's outputs, all gradients (the images' too) and the state after one pass and its
    backward.
    """
    model.train()
    torch.manual_seed(7)
    images = torch.randn(2, 3, 64, 96, requires_grad=True)
    with autocast(CPU, precision):
        features = model.backbone(images)
        loss = torch.stack([f.float().square().mean() for f in features.values()]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    found: dict[str, Any] = {name: f.detach() for name, f in features.items()}
    found |= {f"grad {name}": p.grad for name, p in model.backbone.named_parameters()}
    found |= {f"state {name}": t.clone() for name, t in model.backbone.state_dict().items()}
    return found | {"images": images.grad, "generator": torch.random.get_rng_state()}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert (value is None and b[name] is None) or torch.equal(value, b[name]), name


class Dropping(nn.Module):
    """A block with dropout, inside a residual block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.block(x), 0.3, self.training)


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [False, True])
def test_outputs_gradients_statistics_and_generators_are_the_same_to_the_bit(
    norm: Any, precision: str, dropout: bool
) -> None:
    found = []
    for anew in (False, True):
        torch.manual_seed(0)
        model = build(backbone=ResNetConfig(depth=50, width=8, norm=norm, freeze_at=0))
        if dropout:
            layer = model.backbone.layer2
            assert isinstance(layer, nn.Sequential)
            for i, block in enumerate(layer):
                layer[i] = Dropping(block)
        if anew:
            assert recompute_backbone(model) == 16
        found.append(pass_through(model, precision))
    assert_same(*found)
    tracked = {n: t for n, t in found[1].items() if "num_batches_tracked" in n}
    assert all(t.item() == 1 for t in tracked.values()) and bool(tracked) == (norm == "bn")


def test_each_block_runs_twice_in_training_and_once_without_gradients() -> None:
    model = build(backbone=ResNetConfig(depth=18, width=8, freeze_at=0))
    counts = dict.fromkeys(range(8), 0)
    for i, block in enumerate(model.backbone.blocks()):
        inner = block.forward

        def counted(x: Tensor, i: int = i, inner: Any = inner) -> Any:
            counts[i] += 1
            return inner(x)

        block.__dict__["forward"] = counted
    recompute_backbone(model)
    pass_through(model)
    assert set(counts.values()) == {2}
    with torch.no_grad():
        model.backbone(torch.zeros(1, 3, 64, 64))
    assert set(counts.values()) == {3}


def test_a_backbone_without_blocks_is_refused() -> None:
    model = build()
    model.backbone = VGG16Config(width=4).build()
    with pytest.raises(ConfigError, match="VGG16 has no blocks .* or choose another backbone"):
        recompute_backbone(model)


def test_a_run_with_it_is_the_run_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, momenta and all; and it may be switched on for a resumption."""
    recipe_file = write_recipe(tmp_path)
    wishes = ["data.val=null", "solver.accumulate=2", "train.checkpoint_every=3", "train.keep=9"]
    for name, value in (("without", "false"), ("with", "true")):
        recipe = load_recipe(recipe_file, [*wishes, f"solver.checkpoint_activations={value}"])
        train(recipe, tmp_path / name, console=Console(quiet=True))
    a, b = (load(tmp_path / f"{name}/checkpoints/last.pt") for name in ("without", "with"))
    assert_same(dict(a.model), dict(b.model))
    (tmp_path / "without/checkpoints/step_00000006.pt").unlink()
    (tmp_path / "without/checkpoints/last.pt").unlink()
    settings = [part for wish in wishes for part in ("--set", wish)]
    command = ["train", str(recipe_file), "--resume", str(tmp_path / "without"), "--strict", *settings]
    assert main([*command, "--set", "solver.checkpoint_activations=true"]) == 0
    assert "3 blocks are computed anew in the backward pass" in capsys.readouterr().out
    assert_same(dict(load(tmp_path / "without/checkpoints/last.pt").model), dict(a.model))
    with pytest.raises(ConfigError, match="set one of them to false"):
        load_recipe(recipe_file, ["solver.compile=true", "solver.checkpoint_activations=true"])


#: The peak of a pass and its backward beyond what was there before, in MiB.
PEAK = """
import sys, torch
from maskrcnn.engine.memory import peak_memory
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.recompute import recompute_backbone
from tests.modeling.tiny import build
model = build(backbone=ResNetConfig(depth=50, width=32, norm="bn", freeze_at=0))
if sys.argv[1] == "anew":
    recompute_backbone(model)
model.train()
images = torch.randn(1, 3, 448, 448)
model.backbone(images[:, :, :64, :64])["c5"].sum().backward()
before = peak_memory()
sum(f.square().mean() for f in model.backbone(images).values()).backward()
print((peak_memory() - before) / 2**20)
"""


@pytest.mark.slow
def test_less_memory_is_taken() -> None:
    def peak(kind: str) -> float:
        command = [sys.executable, "-c", PEAK, kind]
        return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)

    kept, anew = peak("kept"), peak("anew")
    assert kept > 60 and anew < 0.7 * kept, (kept, anew)
