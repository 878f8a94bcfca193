"""Losses of evaluation images: which images, which values, and that nothing of the training sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.config import dump
from maskrcnn.data import Dataset, apply_transforms
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import train
from maskrcnn.run.evaluation import BrokenOff
from maskrcnn.run.evaluation_checks import loss_names
from maskrcnn.run.setup import build_transforms
from maskrcnn.run.validation_losses import chosen_places, validation_losses
from maskrcnn.structures import collate
from maskrcnn.structures.seeds import derive_seed
from tests.engine.line import ALONE, CPU
from tests.engine.tiny import write_recipe
from tests.test_resume import StopAfter, assert_same_state

#: Statistics that a pass in training mode would move, and a layer that draws.
DRAWING = ["model.backbone={type: resnet, depth: 18, width: 8, norm: bn, freeze_at: 0}"]
DRAWING += ["model.box_head={type: two_fc, hidden: 16, pool_size: 7, dropout: 0.5}"]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def never() -> bool:
    return False


def draw(*_: Any) -> None:
    torch.rand(3)


def made(recipe_file: Path, *settings: str) -> tuple[Recipe, Dataset, MaskRCNN]:
    recipe = load_recipe(recipe_file, settings)
    assert recipe.data.val is not None
    torch.manual_seed(0)
    return recipe, recipe.data.build(recipe.data.val, False), recipe.model.build(2)


def test_the_images_are_always_the_same() -> None:
    assert chosen_places(1000, 5) == chosen_places(1000, 5) == sorted({*chosen_places(1000, 5)})
    assert set(chosen_places(1000, 5)) < set(chosen_places(1000, 6)) < set(range(1000))
    assert chosen_places(3, 100) == [0, 1, 2]
    assert max(chosen_places(1000, 20)) > 500  # not the first ones, which are often of one kind


@pytest.mark.parametrize("batch_size", [1, 2])
def test_they_are_the_means_of_the_models_losses(recipe_file: Path, batch_size: int) -> None:
    recipe, val, model = made(recipe_file, "eval.losses=3", f"eval.batch_size={batch_size}")
    found = validation_losses(model, val, recipe, ALONE, never)
    assert set(found) == {"val/loss", *(f"val/{name}" for name in loss_names(recipe.model))}
    assert found["val/loss"] == pytest.approx(sum(v for k, v in found.items() if k != "val/loss"))
    transforms, rng = build_transforms(recipe, training=False), np.random.default_rng(0)
    samples = [apply_transforms(transforms, val.load(i), rng).to_sample() for i in range(3)]
    seeds = [derive_seed("image", 0, 0, i) for i in range(3)]
    sums = dict.fromkeys(loss_names(recipe.model), 0.0)
    model.eval()
    for start in range(0, 3, batch_size):
        part = slice(start, start + batch_size)
        batch = collate(samples[part], seeds[part], True)
        assert batch.targets is not None
        for name, value in model.losses(batch.images, batch.targets, batch.seeds).items():
            sums[name] += float(value) * len(batch) / 3
    for name, value in sums.items():
        assert found[f"val/{name}"] == pytest.approx(value, rel=1e-5) and value > 0


def test_nothing_is_left_of_them(recipe_file: Path) -> None:
    """Neither statistics nor torch's generator, nor gradients; the same again, whatever was drawn between."""
    recipe, val, model = made(recipe_file, "eval.losses=3", *DRAWING)
    model.train()
    model.roi.box_head.register_forward_hook(draw)  # a head that draws
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    first = validation_losses(model, val, recipe, ALONE, never)
    assert torch.random.get_rng_state().equal(generator)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    torch.manual_seed(99)
    model.train()
    assert validation_losses(model, val, recipe, ALONE, never) == first


def test_ranks_share_the_images_out(recipe_file: Path) -> None:
    recipe, val, model = made(recipe_file, "eval.losses=3")
    whole = validation_losses(model, val, recipe, ALONE, never)
    parts = [validation_losses(model, val, recipe, Ranks(r, 2, r, CPU), never) for r in (0, 1)]
    for name, value in whole.items():
        assert (2 * parts[0][name] + parts[1][name]) / 3 == pytest.approx(value)
    asked = iter([False, True, True])
    with pytest.raises(BrokenOff):
        validation_losses(model, val, recipe, ALONE, lambda: next(asked))


def test_a_run_with_them_is_the_run_without_and_resumption_repeats_them(
    recipe_file: Path, tmp_path: Path
) -> None:
    wishes = [*DRAWING, "train.eval_every=2", "solver.steps=4"]
    losses = load_recipe(recipe_file, [*wishes, "eval.losses=2"])
    train(load_recipe(recipe_file, wishes), tmp_path / "without", console=Console(quiet=True))
    train(losses, tmp_path / "with", console=Console(quiet=True))
    with pytest.raises(Interrupted, match="after step 2 of 4"):
        train(losses, tmp_path / "again", console=StopAfter(1))
    train(losses, tmp_path / "again", resume=True, strict=True, console=Console(quiet=True))
    states = [load(tmp_path / f"{name}/checkpoints/last.pt") for name in ("without", "with", "again")]
    assert_same_state(states[0], states[1])
    assert_same_state(states[0], states[2])

    def told(name: str) -> list[dict[str, Any]]:
        found = [r for r in read_metrics(tmp_path / name / "metrics.jsonl") if r["kind"] == "eval"]
        return [{k: v for k, v in r.items() if k.startswith("val/")} for r in found]

    assert told("with") == told("again") and told("without") == [{}, {}]
    one, two = told("with")
    assert one.keys() == two.keys() == {"val/loss", *(f"val/{name}" for name in loss_names(losses.model))}
    assert one["val/loss"] != two["val/loss"]


def test_the_best_checkpoint_is_that_of_the_lowest_loss(recipe_file: Path, tmp_path: Path) -> None:
    wishes = [
        "eval.losses=3",
        "train.eval_every=2",
        "eval.best_metric=ema/val/loss",
        "solver.ema={decay: 0.5}",
    ]
    train(load_recipe(recipe_file, wishes), tmp_path / "run", console=Console(quiet=True))
    records = [r for r in read_metrics(tmp_path / "run/metrics.jsonl") if r["kind"] == "eval"]
    told = {r["step"]: r["ema/val/loss"] for r in records}
    assert load(tmp_path / "run/checkpoints/best.pt").step == min(told, key=lambda step: told[step])


@pytest.mark.parametrize(
    ("settings", "words", "advice"),
    [
        (["eval.best_metric=val/loss"], "eval.losses is 0, so it is never computed", ["eval.losses=1"]),
        (
            ["eval.best_metric=val/loss_mask_", "eval.losses=1"],
            "has no loss 'val/loss_mask_'. Did you mean 'val/loss_mask'?",
            ["eval.best_metric=val/loss_mask"],
        ),
        (
            ["eval.losses=1", "data.val.masks=false", "eval.iou_types=[bbox]"],
            "set data.val.masks to true, or eval.losses to 0",
            ["eval.losses=0"],
        ),
    ],
)
def test_what_cannot_be_had_is_told_before_the_first_step(
    recipe_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    words: str,
    advice: list[str],
) -> None:
    def command(name: str, *wishes: str) -> list[str]:
        options = [part for wish in ("solver.steps=1", *wishes) for part in ("--set", wish)]
        return ["train", str(recipe_file), "--output", str(tmp_path / name), *options]

    assert main(command("a", *settings)) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert not (tmp_path / "a").exists()
    assert main(command("b", *settings, *advice)) == 0


def test_names_of_losses_are_those_that_models_return(recipe_file: Path) -> None:
    for settings in (
        [],
        ["model.roi.cascade={}", "model.box_head={type: two_fc, hidden: 16, class_agnostic: true}"],
        ["model.mask_head=null"],
    ):
        recipe, val, model = made(recipe_file, "eval.losses=1", *settings)
        found = validation_losses(model, val, recipe, ALONE, never)
        assert [name.removeprefix("val/") for name in found][1:] == loss_names(recipe.model)
        assert json.dumps(found) and "losses: 1" in dump(recipe)
