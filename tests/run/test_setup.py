"""What is refused when the model is put on its device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.errors import ConfigError
from maskrcnn.layers.ops import MOST_CUDA_LEVELS
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import setup
from tests.engine.tiny import write_recipe

COMMON = Path(__file__).resolve().parents[2] / "csrc/cuda/common.cuh"


def with_levels(folder: Path, count: int) -> tuple[Path, Recipe]:
    path = write_recipe(folder)
    text = path.read_text().replace("score_threshold: 0.0", f"score_threshold: 0.0, levels: {['p2'] * count}")
    path.write_text(text)
    return path, load_recipe(path)


def test_the_number_is_the_kernels() -> None:
    found = re.search(r"constexpr int kMaxLevels = (\d+);", COMMON.read_text(encoding="utf-8"))
    assert found and int(found[1]) == MOST_CUDA_LEVELS


def test_too_many_levels_for_a_gpu_are_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, recipe = with_levels(tmp_path, 17)
    monkeypatch.setattr(setup, "has_kernels", lambda device_type: True)
    with pytest.raises(ConfigError, match=r"model\.roi\.levels names 17 levels.*at most 16; name fewer"):
        setup.place_model(recipe, 2, torch.device("cuda"))
    assert main(["config", "check", str(path)]) == 0
    assert f"warning: {path}: model.roi.levels names 17 levels" in capsys.readouterr().err
    path, recipe = with_levels(tmp_path, 16)
    assert setup.cuda_levels_doubt(recipe) == ""
    assert main(["config", "check", str(path), "--set", "solver.optimizer.lr=0.005"]) == 0
    assert capsys.readouterr().err == ""


def test_a_training_and_its_evaluation_see_the_padded_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of 48 to 64 px; the third of the sizes is never the smallest."""
    seen: set[tuple[bool, int, int]] = set()
    features = MaskRCNN.features

    def looking(self: MaskRCNN, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.add((self.training, *tensor.shape[2:]))
        return features(self, tensor)

    monkeypatch.setattr(MaskRCNN, "features", looking)
    path = write_recipe(tmp_path)
    options = ["train", str(path), "--output", str(tmp_path / "run"), "--set", "solver.steps=3"]
    assert main([*options, "--set", "data.pad_sizes=[[64, 96], [128, 96], [96, 96]]"]) == 0
    assert seen == {(True, 64, 96), (False, 64, 96)}
    assert "pad_sizes" not in capsys.readouterr().err


def test_config_check_tells_doubts_about_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    assert main(["config", "check", str(path), "--set", "solver.optimizer.lr=0.02"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{path}: ok\n"
    assert told.err.startswith(f"warning: {path}: solver.optimizer.lr 0.02 is the default")
