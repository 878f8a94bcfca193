"""A model that cannot learn is refused with keys that help; likely mistakes in rates and steps are told."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn.cli import main
from maskrcnn.config.shipped import shipped_configs
from maskrcnn.engine.optim import AdamWConfig, SGDConfig
from maskrcnn.engine.schedules import CosineConfig, MultiStepConfig
from maskrcnn.errors import ConfigError
from maskrcnn.modeling import MaskRCNNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.backbones.timm_backbone import TimmConfig
from maskrcnn.modeling.backbones.vgg import VGG16Config
from maskrcnn.modeling.interfaces import BACKBONES
from maskrcnn.modeling.norms import FrozenBatchNorm2d
from maskrcnn.recipe import SolverConfig, load_recipe
from maskrcnn.run.learnable import check_frozen, epoch_doubts, norm_doubts, random_frozen, solver_doubts
from maskrcnn.studies.ablation.suite import load_suite, recipe_of
from tests.engine.tiny import write_recipe
from tests.engine.tiny_backbone import TinyBackbone
from tests.modeling.tiny import CONFIG
from tests.rules.pages import PAGES
from tests.rules.test_configs import NAMES, VARIANTS, recipe, small

OWN_DATA = next(page for page in PAGES if page.name == "own_data.md")
RESNET = ResNetConfig(depth=18, width=8)
#: A key and its value, as a message tells to set it.
ADVICE = re.compile(r"(model(?:\.\w+)+): (\w+|\[\])")


@BACKBONES.register("of_test_learnable")
@dataclass(frozen=True, kw_only=True)
class OwnConfig:
    """A plugin's backbone without the keys of ours."""

    freeze: str = ""
    norms: str = ""

    def build(self) -> TinyBackbone:
        model = TinyBackbone(8)
        if self.norms:
            for stage in model.stages:
                stage[1] = nn.BatchNorm2d(8) if self.norms == "bn" else FrozenBatchNorm2d(8)
        if self.norms == "loaded":
            for module in model.modules():
                if isinstance(module, FrozenBatchNorm2d):
                    module.running_var.fill_(2.0)
        if self.freeze:
            model.stem.requires_grad_(False)
        if self.freeze == "constant":  # as a file of weights, or an encoding of positions, would make it
            nn.init.constant_(model.stem.weight, 0.25)
            nn.init.constant_(model.stem.bias, 0.5)  # type: ignore[arg-type]
        return model


def check(backbone: Any) -> None:
    config = replace(CONFIG, backbone=backbone)
    check_frozen(config.build(2), config)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (RESNET, ["frozen parameters are random (backbone.conv1.weight", "do nothing (backbone.bn1,"]),
        (replace(RESNET, freeze_at=0), ["set model.backbone.norm: gn, as"]),
        (replace(RESNET, norm="gn"), ["set model.backbone.freeze_at: 0, as"]),
        (replace(RESNET, norm="bn", freeze_at=1), ["1 frozen normalisation does nothing (backbone.bn1)"]),
        (
            OwnConfig(freeze="yes"),
            ["2 frozen parameters are random (backbone.stem.weight, backbone.stem.bias)"],
        ),
        (
            OwnConfig(norms="frozen"),
            ["3 frozen normalisations do nothing (backbone.stages.0.1,", "normalise"],
        ),
    ],
)
def test_what_cannot_learn_is_refused(backbone: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"cannot learn.*train\.allow_frozen_random: true") as told:
        check(backbone)
    assert all(word in str(told.value) for word in words), told.value


def test_a_stage_in_place_of_c5_is_judged_too() -> None:
    found = recipe("coco/mask_rcnn_r50_c4_1x").model
    config = small(replace(found, backbone=replace(found.backbone, weights=None, freeze_at=0)))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="frozen normalisations do nothing"):
        check_frozen(config.build(2), config)


@pytest.mark.parametrize(
    "backbone",
    [
        replace(RESNET, norm="gn", freeze_at=0),
        replace(RESNET, norm="bn", freeze_at=0),
        replace(RESNET, norm="sync_bn", freeze_at=0),
        VGG16Config(width=4, freeze_at=0),
        OwnConfig(),
        OwnConfig(norms="bn"),
        OwnConfig(freeze="constant"),
        OwnConfig(norms="loaded"),
    ],
)
def test_what_can_learn_is_not(backbone: Any) -> None:
    if isinstance(backbone, VGG16Config):
        config = small(recipe("coco/fast_rcnn_vgg16").model)
        config = replace(config, backbone=backbone, box_head=replace(config.box_head, weights=None))  # type: ignore[type-var]
        check_frozen(config.build(2), config)
    else:
        check(backbone)


def test_weights_of_the_backbone_are_seen(tmp_path: Path) -> None:
    """A classifier's file makes frozen layers and norms sound, as does one whose statistics are folded."""
    source = replace(RESNET, norm="bn").build()
    state = {
        k: torch.rand_like(v) + 0.5 if v.is_floating_point() else v for k, v in source.state_dict().items()
    }
    for name in ("as trained", "folded"):
        if name == "folded":  # Detectron2's: scale and shift alone
            state |= {k: torch.zeros_like(v) for k, v in state.items() if k.endswith("running_mean")}
            state |= {k: torch.ones_like(v) for k, v in state.items() if k.endswith("running_var")}
        torch.save(state, tmp_path / f"{name}.pth")
        check(replace(RESNET, weights=tmp_path / f"{name}.pth"))


def test_chance_is_left_as_it_was() -> None:
    config = replace(CONFIG, backbone=RESNET)
    model = config.build(2)
    assert model.training
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert "backbone.conv1.weight" in random_frozen(model, config)
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert before[0].equal(after[0]) and before[1:] == after[1:]
    assert model.training


@pytest.mark.parametrize("backbone", ["resnet", "vgg16", "timm"])
def test_the_advice_works(backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Followed word by word, it makes the same command train."""
    path = write_recipe(tmp_path)
    kinds = {
        "resnet": "{type: resnet, depth: 18, width: 8}",
        "vgg16": "{type: vgg16, width: 4, outputs: [c4, c5]}",
        "timm": "{type: timm, name: test_resnet, freeze: [conv1, layer1]}",
    }
    if backbone == "timm":
        pytest.importorskip("timm")
    levels = {"vgg16": "[p4, p5, p6]", "resnet": "[p2, p3, p4, p5, p6]", "timm": "[p2, p3, p4, p5, p6]"}[
        backbone
    ]
    command = ["train", str(path), "--set", f"model.backbone={kinds[backbone]}", "--set", "solver.steps=1"]
    command += ["--set", "data.val=null", "--set", f"model.rpn.levels={levels}"]
    if backbone == "vgg16":
        command += ["--set", "model.roi.levels=[p4, p5]"]
        command += ["--set", "model.rpn.anchors.sizes=[[16], [32], [64]]"]
    assert main([*command, "--output", str(tmp_path / "a")]) == 2
    told = capsys.readouterr().err
    assert not (tmp_path / "a").exists(), "refused before anything is written"
    keys = [f"{key}={value}" for key, value in ADVICE.findall(told) if value != "FILE"]
    assert keys
    settings = [part for key in keys for part in ("--set", key)]
    assert main([*command, *settings, "--output", str(tmp_path / "b")]) == 0
    meant = ["--set", "train.allow_frozen_random=true", "--output", str(tmp_path / "c")]
    assert main([*command, *meant]) == 0
    # Resumed, and started from a whole model's weights, nothing is random any more.
    longer = ["--set", "solver.steps=2"]
    assert main([*command, *longer, "--resume", str(tmp_path / "c")]) == 0
    weights = ["--set", f"weights={tmp_path / 'c' / 'checkpoints' / 'last.pt'}"]
    assert main([*command, *weights, "--output", str(tmp_path / "d")]) == 0


@pytest.mark.parametrize("name", NAMES + VARIANTS)
def test_what_is_shipped_can_learn(name: str) -> None:
    """Recipes that name no file of weights train from scratch, and no shipped recipe is told a doubt."""
    found = recipe(name)
    assert not solver_doubts(found.solver)
    given = [getattr(part, "weights", None) for part in (found.model.backbone, found.model.box_head)]
    if not any(given) and found.weights is None:
        model: MaskRCNNConfig = small(found.model)
        check_frozen(model.build(2), model)


@pytest.mark.parametrize("path", sorted((shipped_configs() / "suites").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_suites_can_learn(path: Path) -> None:
    suite = load_suite(path)
    for found in {recipe_of(suite, variant, 0).model for variant in suite.variants}:
        if getattr(found.backbone, "weights", None) is None:
            model = small(found)
            check_frozen(model.build(2), model)


def test_the_base_for_scratch_can(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    bases = ["configs/base/mask_rcnn_fpn.yaml", "configs/base/scratch.yaml"]
    path.write_text(json.dumps({"base": bases, "data": {"train": {"type": "synthetic"}}}))
    found = load_recipe(path)
    model = small(found.model)
    check_frozen(model.build(2), model)
    assert not solver_doubts(found.solver)
    assert shipped_configs().is_dir()


def test_the_advice_for_imagenet_weights(tmp_path: Path) -> None:
    """The two lines of docs/own_data.md, over the base alone, with a file of a smaller network."""
    text = re.sub(r"\s+", " ", OWN_DATA.read_text(encoding="utf-8"))
    model, solver = (re.search(rf"`({key}: {{[^`]*}})`", text)[1] for key in ("model", "solver"))  # type: ignore[index]
    torch.save(ResNetConfig(depth=18, width=16, norm="bn").build().state_dict(), tmp_path / "resnet50.pth")
    path = tmp_path / "mine.yaml"
    data = "data: {train: {type: synthetic}}"
    path.write_text(f"base: configs/base/mask_rcnn_fpn.yaml\n{model}\n{solver}\n{data}")
    weights = f"model.backbone.weights={tmp_path / 'resnet50.pth'}"
    small_one = ["model.backbone.depth=18", "model.backbone.width=16", weights]
    found = load_recipe(path, small_one)
    assert solver_doubts(found.solver) == []
    assert random_frozen(found.model.build(2), found.model) == []


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (
            SolverConfig(batch_size=2),
            "lr 0.02 is the default, meant for 16 images a step, and 8 times the usual 0.0025",
        ),
        (SolverConfig(batch_size=1), "set solver.reference_batch_size: 16"),
        (
            SolverConfig(batch_size=2, optimizer=SGDConfig(lr=0.2), reference_batch_size=2),
            "0.2 is 80 times the usual",
        ),
        (SolverConfig(optimizer=SGDConfig(lr=0.0)), "nothing will be learned"),
        (SolverConfig(steps=5000), r"milestones: [3333, 4444]"),
        (SolverConfig(steps=900, schedule=CosineConfig()), "solver.schedule.warmup_steps: 90"),
    ],
)
def test_doubts_about_rates_are_told(solver: SolverConfig, words: str) -> None:
    assert words in " ".join(solver_doubts(solver))


@pytest.mark.parametrize(
    "solver",
    [
        SolverConfig(),
        SolverConfig(batch_size=2, reference_batch_size=16),
        SolverConfig(batch_size=4, reference_batch_size=4),
        SolverConfig(batch_size=1, optimizer=AdamWConfig()),
        SolverConfig(batch_size=2, optimizer=SGDConfig(lr=0.0025)),
        SolverConfig(steps=5000, schedule=MultiStepConfig(milestones=(3333, 4444))),
    ],
)
def test_sound_rates_are_not(solver: SolverConfig) -> None:
    assert not solver_doubts(solver)


def test_less_than_an_epoch_is_told() -> None:
    (doubt,) = epoch_doubts(SolverConfig(steps=5, batch_size=2), 101)
    assert "10 of 101 training images" in doubt and "solver.steps: 51" in doubt
    assert not epoch_doubts(SolverConfig(steps=51, batch_size=2), 101)


def test_batch_norm_of_single_images_is_told() -> None:
    model = replace(RESNET, norm="bn", freeze_at=0).build()
    assert "20 batch normalisations (bn1, layer1.0.bn1" in norm_doubts(model, 1, 1)[0]
    assert not norm_doubts(model, 2, 1)
    assert not norm_doubts(replace(RESNET, norm="gn", freeze_at=0).build(), 1, 1)
    synced = replace(RESNET, norm="sync_bn", freeze_at=0).build()
    assert norm_doubts(synced, 1, 1) and not norm_doubts(synced, 1, 8)


def test_a_run_tells_its_doubts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    command = ["train", str(path), "--set", "data.val=null", "--set", "solver.optimizer.lr=0.02"]
    assert main([*command, "--set", "solver.steps=1", "--output", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().err
    assert "warning: solver.optimizer.lr 0.02 is the default" in told and "less than one epoch" in told
    assert main([*command, "--set", "solver.steps=2", "--resume", str(tmp_path / "run")]) == 0
    assert "less than one epoch" not in capsys.readouterr().err


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="every parameter of the model is frozen"):
        SGDConfig().build(nn.Linear(2, 2).requires_grad_(False), 0.1)


def test_timm_without_weights_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"set model\.backbone\.frozen_bn: false"):
        check(TimmConfig(name="test_resnet"))
