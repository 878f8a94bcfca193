"""What the keys of the recipe do to a training: parts frozen, rates of parts, weights and images of classes.

Covers ``maskrcnn/run/training.py`` and ``maskrcnn/run/setup.py``, together with test_resume.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.cli import main
from maskrcnn.config import dump
from maskrcnn.data import CocoConfig
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.console import Console
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.recipe import load_recipe, parse_recipe
from maskrcnn.run import train
from maskrcnn.run.setup import class_weights
from maskrcnn.structures.seeds import seed_everything
from tests.engine.tiny import write_data, write_recipe
from tests.test_resume import StopAfter, assert_same_state

#: A backbone with batch normalisation, and steps that are large from the first on.
BN = [
    "model.backbone={type: resnet, depth: 18, width: 8, norm: bn, freeze_at: 0}",
    "solver.schedule.warmup_steps=0",
    "train.allow_frozen_random=true",
]
ALL = [
    'solver.freeze=[backbone.stem, "roi.box_head.fc?"]',
    "solver.rates={backbone: 0.1, neck.*: 0.5}",
    "data.repeat_threshold=1.0",
    "model.roi.class_weights={disc: 3, background: 0.5}",
    "model.roi.balance_classes=true",
    "train.allow_frozen_random=true",
]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("keys"))


def run(recipe_file: Path, folder: Path, *settings: str, **options: Any) -> dict[str, Tensor]:
    """Weights after training."""
    train(load_recipe(recipe_file, settings), folder, **options)
    return load(folder / "checkpoints/last.pt").model


def start(recipe_file: Path, *settings: str) -> dict[str, Tensor]:
    """Weights before it."""
    recipe = load_recipe(recipe_file, settings)
    seed_everything(recipe.seed, deterministic=False)
    return recipe.model.build(2).state_dict()


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if not tensor.equal(before[name])}


def test_what_is_frozen_stays_with_its_statistics_and_the_rest_trains(
    recipe_file: Path, tmp_path: Path
) -> None:
    """Also after evaluations, which put a model into evaluation mode and back."""
    frozen = 'solver.freeze=[backbone.layer1, backbone.bn1, "roi.box_head.fc*"]'
    settings = [*BN, frozen, "solver.steps=2", "train.eval_every=1"]
    before, after = start(recipe_file, *settings), run(recipe_file, tmp_path / "run", *settings)
    still = set(after) - moved(before, after)
    named = ("backbone.layer1.", "backbone.bn1.", "roi.box_head.fc")
    assert still == {name for name in after if name.startswith(named)}
    assert any("running_mean" in name for name in still) and "backbone.layer2.0.bn1.running_var" not in still
    log = (tmp_path / "run/log.txt").read_text()
    count = sum(after[n].numel() for n in still if not re.search("running|num_batches", n))
    assert f"frozen by solver.freeze: {count:,} parameters in " in log
    assert "(backbone.layer1, backbone.bn1, roi.box_head.fc*)" in log


def test_a_run_with_all_of_it_stopped_and_gone_on_with_is_one_run(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ALL)
    assert parse_recipe(dump(recipe), "x") == recipe
    train(recipe, tmp_path / "straight", console=Console(quiet=True))
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        train(recipe, tmp_path / "run", console=StopAfter(2))
    train(recipe, tmp_path / "run", resume=True, strict=True, console=Console(quiet=True))
    assert_same_state(*(load(tmp_path / f"{name}/checkpoints/last.pt") for name in ("straight", "run")))


@pytest.mark.parametrize("optimizer", ["{type: sgd, lr: 0.01}", "{type: adamw, lr: 0.001}"])
def test_a_rate_of_its_own_is_a_factor_on_each_step(
    recipe_file: Path, tmp_path: Path, optimizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["solver.schedule.warmup_steps=0", "solver.steps=1", f"solver.optimizer={optimizer}"]
    before = start(recipe_file, *settings)
    plain = run(recipe_file, tmp_path / "plain", *settings)
    rates = "solver.rates={backbone: 0.25, backbone.stages: 0.5}"
    slow = run(recipe_file, tmp_path / "slow", *settings, rates)
    for name, factor in (("backbone.stem.weight", 0.25), ("backbone.stages.0.0.weight", 0.5), ("neck", 1.0)):
        name = next(n for n in before if n.startswith(name))
        full = plain[name] - before[name]
        assert full.abs().max() > 0
        torch.testing.assert_close(slow[name] - before[name], factor * full, rtol=1e-3, atol=1e-7)
    (told,) = [r for r in read_metrics(tmp_path / "slow/metrics.jsonl") if r["kind"] == "train"]
    assert told["lr/backbone"] == told["lr"] * 0.25 and told["lr/backbone.stages"] == told["lr"] * 0.5
    log = (tmp_path / "slow/log.txt").read_text()
    assert "learning rate x 0.25: backbone, 392 parameters in 2 tensors" in log
    assert f"(backbone {told['lr'] * 0.25:.2e}, backbone.stages {told['lr'] * 0.5:.2e})" in log


def test_other_rates_go_on_and_other_groups_are_refused_with_what_to_do(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(recipe_file), "--output", str(tmp_path / "run")]
    assert main([*command, "--set", "solver.rates={backbone: 0.5}", "--set", "solver.steps=1"]) == 0
    go_on = [*command, "--resume", "--set", "solver.steps=2"]
    capsys.readouterr()
    for other in ("{}", "{neck: 0.5}"):
        assert main([*go_on, "--set", f"solver.rates={other}"]) == 2
        assert (
            "keep solver.optimizer, solver.rates and what is trained as they were" in capsys.readouterr().err
        )
    assert main([*go_on, "--set", "solver.rates={backbone: 0.25}"]) == 0
    assert "solver.rates.backbone: 0.5 -> 0.25" in capsys.readouterr().err


def test_a_checkpoint_from_before_there_were_rates_goes_on(recipe_file: Path, tmp_path: Path) -> None:
    run(recipe_file, tmp_path / "run", "solver.steps=1")
    run(recipe_file, tmp_path / "run", "solver.steps=2", "solver.freeze=[]", resume=True)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("freeze", "[bakbone]", "solver.freeze names 'bakbone', and no part of the model is called so; did"),
        ("freeze", '["roi.box_hed.*"]', "solver.freeze names 'roi.box_hed.*', and no part"),
        ("freeze", "[xyzzy]", "its parts are 'backbone', 'neck', 'rpn', 'roi'"),
        ("freeze", '["*"]', "solver.freeze [*] leaves nothing to train"),
        ("rates", "{roi.mask_haed: 0.5}", "did you mean 'roi.mask_head'"),
        ("rates", "{backbone: 0}", "backbone must be > 0, got 0"),
    ],
)
def test_config_check_tells_names_that_are_none(
    recipe_file: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, words: str
) -> None:
    path = recipe_file.with_name("wrong.yaml")
    path.write_text(f"base: tiny.yaml\nsolver:\n  {key}: {value}\n")
    assert main(["config", "check", str(path)]) == 2
    told = capsys.readouterr().err
    assert words in told and re.search(r"wrong\.yaml:3:\d+: ", told) and told.count("\n") == 1
    assert main(["train", str(path), "--output", str(path.with_name("none"))]) == 2
    assert words in capsys.readouterr().err
    if near := re.search("did you mean '([^']+)'", told):
        path.write_text(
            path.read_text().replace(re.findall(r"[\w.*]*(?:bak|hed|haed)[\w.*]*", value)[0], near[1])
        )
        assert main(["config", "check", str(path)]) == 0


def test_frozen_parts_that_chance_decided_are_refused_and_the_advice_works(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(recipe_file), "--set", "solver.steps=1", "--output", str(tmp_path / "run")]
    frozen = ["--set", "solver.freeze=[backbone, roi.box_head]"]
    assert main([*command, *frozen]) == 2
    told = capsys.readouterr().err
    assert (
        "frozen parameters are random" in told and "set solver.freeze: []" in told and "freeze_at" not in told
    )
    assert main([*command, "--set", "solver.freeze=[]"]) == 0
    again = ["train", str(recipe_file), "--set", "solver.steps=1", "--output", str(tmp_path / "again")]
    again += [*frozen, "--set", f"weights={tmp_path / 'run/checkpoints/last.pt'}"]
    capsys.readouterr()
    assert main([*again, "--drop-head"]) == 2
    told = capsys.readouterr().err
    assert "4 frozen parameters stay random (roi.box_head.predictor.deltas.bias" in told
    assert main([*again, "--drop-head", "--set", "solver.freeze=[backbone]"]) == 0


def test_class_weights_by_hand(tmp_path: Path) -> None:
    """Of classes a, b, c with 16, 4 and 0 instances."""
    write_data(tmp_path, names=("a", "b", "c"))
    content = json.loads((tmp_path / "train.json").read_text())
    ids = [c["id"] for c in content["categories"]]
    box = content["annotations"][0]
    labels = [ids[0]] * 16 + [ids[1]] * 4
    content["annotations"] = [{**box, "id": i, "category_id": k} for i, k in enumerate(labels, 1)]
    content["annotations"].append({**box, "id": 99, "category_id": ids[2], "iscrowd": 1})
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = CocoConfig(images=tmp_path, annotations=tmp_path / "train.json").build(True)
    plain = replace(load_recipe("zoo/demo").model.roi)
    cpu = torch.device("cpu")
    assert class_weights(plain, data, cpu) is None

    def weights(**changes: Any) -> list[float]:
        found = class_weights(replace(plain, **changes), data, cpu)
        assert found is not None and found.dtype == torch.float32
        return found.tolist()

    assert weights(class_weights={"b": 2.0, "background": 0.25}) == [1.0, 2.0, 1.0, 0.25]
    # 1/4 and 1/2, times 20 / (16/4 + 4/2): the mean over 20 instances is 1.
    balanced = weights(balance_classes=True)
    assert balanced == pytest.approx([20 / 24, 40 / 24, 1.0, 1.0])
    assert (16 * balanced[0] + 4 * balanced[1]) / 20 == pytest.approx(1.0)
    assert weights(balance_classes=True, class_weights={"a": 7.0})[:2] == pytest.approx([7.0, 40 / 24])
    with pytest.raises(DataError, match=r"names 'bb', and .*train.json has no such class. Did you mean 'b'"):
        weights(class_weights={"bb": 2.0})
    with pytest.raises(ConfigError, match="a must be > 0"):
        weights(class_weights={"a": 0.0})


def test_weights_of_classes_reach_the_loss_of_every_stage(recipe_file: Path, tmp_path: Path) -> None:
    one = ["solver.steps=1", "model.box_head.class_agnostic=true", "model.roi.cascade={}"]
    runs = {
        "plain": [],
        "equal": ["model.roi.class_weights={box: 2, disc: 2, background: 2}"],
        "other": ["model.roi.class_weights={background: 0.01}"],
    }
    losses = {}
    for name, settings in runs.items():
        run(recipe_file, tmp_path / name, *one, *settings)
        losses[name] = read_metrics(tmp_path / name / "metrics.jsonl")[0]
    for stage in (1, 2, 3):
        key = f"loss_box_cls_stage{stage}"
        assert losses["equal"][key] == pytest.approx(
            losses["plain"][key]
        )  # a mean does not change by a factor
        assert losses["other"][key] != pytest.approx(losses["plain"][key], rel=1e-3)
    log = (tmp_path / "other/log.txt").read_text()
    assert "weights of the classes' losses: background 0.01; others 1" in log
    assert not [k for k in load(tmp_path / "other/checkpoints/last.pt").model if "class_weights" in k]


def test_repeated_images_are_told(recipe_file: Path, tmp_path: Path) -> None:
    """4 of 5 images hold both classes: sqrt(1 / 0.8) = 1.118, and an epoch has 4 x 1.118 + 1 draws."""
    run(recipe_file, tmp_path / "run", "solver.steps=1", "data.repeat_threshold=1.0")
    log = (tmp_path / "run/log.txt").read_text()
    assert "disc x 1.12, box x 1.12; an epoch is about 5 draws of 5 images" in log
