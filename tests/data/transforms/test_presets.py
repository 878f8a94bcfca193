"""Augmentations by name: what they stand for, that they are shown, and that they run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.config import loads
from maskrcnn.data import apply_transforms
from maskrcnn.data.interfaces import AUGMENTATIONS, TRANSFORMS
from maskrcnn.errors import ConfigError
from maskrcnn.recipe import Recipe
from maskrcnn.run.setup import build_transforms
from tests.data.transforms.test_affine import rng, sample

NAMES = ("aerial", "microscopy", "photos")
TEXT = "data: {train: {type: coco, images: a, annotations: b}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [3, 5])
def test_each_runs_and_is_a_function_of_the_seed(name: str, channels: int) -> None:
    transforms = AUGMENTATIONS.get(name)()
    before = replace(sample(channels), proposals=None)
    images = set()
    for seed in range(4):
        a, b = (apply_transforms(transforms, before, rng(seed)) for _ in range(2))
        assert np.array_equal(a.image, b.image) and torch.equal(a.targets.boxes, b.targets.boxes)
        assert a.image.dtype == np.uint8 and a.image.shape[2] == channels
        images.add(a.image.tobytes())
    assert len(images) == 4


def test_they_stand_behind_the_transforms_of_training_alone() -> None:
    recipe = loads(Recipe, f"{TEXT}, train_transforms: [hflip], augment: photos, tighten_boxes: true}}")
    names = [TRANSFORMS.name_of(type(t)) for t in build_transforms(recipe, training=True)]
    assert names == ["hflip", "hflip", "affine", "color_jitter", "gamma", "tighten_boxes"]
    assert build_transforms(recipe, training=False) == list(recipe.data.eval_transforms)
    plain = loads(Recipe, f"{TEXT}}}")
    assert build_transforms(plain, training=True) == list(plain.data.train_transforms)
    assert AUGMENTATIONS.get("none")() == ()


def test_config_show_says_what_a_name_stands_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"{TEXT}, augment: microscopy}}\n")
    assert main(["config", "show", str(config)]) == 0
    shown = capsys.readouterr().out
    lines = [line.removeprefix("#   - ") for line in shown.splitlines() if line.startswith("#   - ")]
    text = f"{TEXT}, train_transforms: [{', '.join(lines)}]}}"
    assert loads(Recipe, text).data.train_transforms == AUGMENTATIONS.get("microscopy")()
    assert main(["config", "show", "--plain", str(config)]) == 0
    assert loads(Recipe, capsys.readouterr().out) == loads(Recipe, config.read_text())


def test_an_unknown_name_is_told_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data.augment: unknown augmentation 'photo'. Did you mean 'photos'"
    ):
        loads(Recipe, f"{TEXT}, augment: photo}}")


def test_a_step_that_a_library_lacks_is_told_by_config_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"{TEXT}, train_transforms: [hflip, {{type: torchvision_v2, pipeline: [{{name: Flip}}]}}]}}\n"
    )
    assert main(["config", "check", str(config)]) == 2
    told = capsys.readouterr().err
    assert "mine.yaml:1:" in told and "torchvision_v2 has no transform 'Flip'" in told
