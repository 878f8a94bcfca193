"""The average of the weights: its arithmetic, its place in a run's state, and who may use it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import Checkpoint, load
from maskrcnn.engine.console import Console
from maskrcnn.engine.ema import WeightAverage
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.engine.outcomes import NotFiniteError, Wishes
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.recipe import load_recipe
from maskrcnn.run import Predictor, train
from tests.engine.line import ALONE, batch, batches
from tests.engine.test_unread import OPTIMIZERS, Norm, assert_equal, bad_loss, queue, state
from tests.engine.tiny import write_recipe
from tests.test_resume import StopAfter, assert_same_state

EMA = ["solver.ema={decay: 0.9, warmup: 4}", "train.eval_every=3"]


def make(name: str = "sgd", **options: Any) -> tuple[Step, WeightAverage]:
    torch.manual_seed(3)
    model = Norm()
    strategy = choose_strategy(ALONE, model)
    average = WeightAverage(strategy, decay=0.9, warmup=4.0)
    defaults: dict[str, Any] = {"rate": lambda step: 0.1 / (step + 1), "seed": 0, "precision": "float32"}
    optimizer = OPTIMIZERS[name](model.parameters())
    return Step(strategy, optimizer, average=average, **defaults | options), average


def test_it_is_the_published_recurrence() -> None:
    """In float64, by hand: d = min(decay, (1 + t) / (warmup + t)); buffers too, whole numbers not."""
    step, average = make()
    expected = {n: t.double() for n, t in step.strategy.model_state().items() if t.is_floating_point()}
    source = batches()
    for t in range(40):
        step.take(t, source, Wishes)
        d = min(0.9, (1 + t) / (4 + t))
        for name, value in step.strategy.model_state().items():
            if name in expected:
                expected[name] = d * expected[name] + (1 - d) * value.double()
    found = average.state()
    assert found.keys() == expected.keys() == {*step.strategy.model_state()} - {"norm.num_batches_tracked"}
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
    assert not found["linear.weight"].equal(step.strategy.model_state()["linear.weight"])


def test_half_precision_weights_have_a_float32_average_and_what_is_frozen_has_none() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(torch.bfloat16)
    model[0].requires_grad_(False)
    average = WeightAverage(choose_strategy(ALONE, model), decay=0.999, warmup=1.0)
    assert {n: t.dtype for n, t in average.state().items()} == dict.fromkeys(
        ("1.weight", "1.bias"), torch.float32
    )
    before = average.state()["1.bias"].clone()
    with torch.no_grad():
        model[1].bias += 1
    for step in range(10):
        average.update(step)
    assert (average.state()["1.bias"] - before).min() > 0.009  # ten steps of 1 / 1000


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_deferred_steps_give_the_same_bits_and_bad_ones_change_nothing(name: str, precision: str) -> None:
    once, _ = make(name, precision=precision)
    later, average = make(name, precision=precision, deferred=True)
    source = batches()
    for i in range(4):
        once.take(i, source, Wishes)
    queue(later, iter([*(batch(i) for i in range(4)), bad_loss(), batch(8)]), 6)
    with pytest.raises(NotFiniteError):
        later.read()
    assert "ema" in state(later)
    assert_equal(average.state(), state(once)["ema"])
    assert_equal(state(later)["model"], state(once)["model"])
    queue(later, batches(4), 1, first=4)  # steps count again
    once.take(4, batches(4), Wishes)
    later.read()
    assert_equal(average.state(), state(once)["ema"])


def test_the_model_has_its_own_weights_again_to_the_bit_whatever_happens() -> None:
    step, average = make()
    for i, one in enumerate(batches(0, 3)):
        step.take(i, iter([one]), Wishes)
    before = {name: value.clone() for name, value in step.strategy.model_state().items()}

    def use() -> None:
        with average.applied():
            inside = step.strategy.model_state()
            assert all(inside[name].equal(value) for name, value in average.state().items())
            assert not inside["linear.weight"].equal(before["linear.weight"])
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert_equal(dict(step.strategy.model_state()), before)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def straight(recipe_file: Path) -> Path:
    folder = recipe_file.parent / "straight"
    train(load_recipe(recipe_file, EMA), folder, console=Console(quiet=True))
    return folder


def last(folder: Path) -> Checkpoint:
    return load(folder / "checkpoints" / "last.pt")


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "eval"]


def test_a_run_with_it_stopped_and_gone_on_with_is_one_run(
    recipe_file: Path, straight: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file, EMA)
    with pytest.raises(Interrupted, match="after step 2 of 6"):
        train(recipe, tmp_path / "run", console=StopAfter(1))
    train(recipe, tmp_path / "run", resume=True, strict=True, console=Console(quiet=True))
    assert_same_state(last(straight), last(tmp_path / "run"))
    assert last(straight).more["ema"]
    told = [{k: v for k, v in r.items() if k != "seconds"} for r in evaluations(straight)]
    assert told == [{k: v for k, v in r.items() if k != "seconds"} for r in evaluations(tmp_path / "run")]
    assert [record["step"] for record in told] == [3, 6]
    assert all({"segm/AP", "ema/segm/AP", "ema/bbox/AP50"} <= record.keys() for record in told)
    assert json.loads((straight / "figures.json").read_text())["ema"]["figures"]["segm"].keys()


def test_the_weights_are_those_of_a_run_without(recipe_file: Path, straight: Path, tmp_path: Path) -> None:
    train(load_recipe(recipe_file, EMA[1:]), tmp_path / "run", console=Console(quiet=True))
    plain = last(tmp_path / "run")
    assert_equal(dict(last(straight).model), dict(plain.model))
    assert plain.more.keys() == {"shares"}


def test_commands_take_the_average_where_the_key_says_so(
    recipe_file: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = straight / "checkpoints/last.pt"
    expected = evaluations(straight)[-1]
    for value, prefix in (("true", "ema/"), ("false", ""), ("null", "")):
        results = tmp_path / f"{value}.json"
        options = ["--set", f"eval.ema={value}", "--set", "plugins=[tests.engine.tiny_backbone]"]
        assert main(["eval", "--checkpoint", str(file), "--results", str(results), *options]) == 0
        found = capsys.readouterr().out
        assert f"{expected[f'{prefix}bbox/AR100']:.3f}" in found
    assert (tmp_path / "true.json").read_text() != (tmp_path / "false.json").read_text()
    assert (tmp_path / "null.json").read_text() == (tmp_path / "false.json").read_text()
    average = Predictor(file, device="cpu", overrides=["eval.ema=true"]).model.state_dict()
    assert all(average[name].equal(value) for name, value in last(straight).more["ema"].items())
    own = Predictor(file, device="cpu").model.state_dict()
    assert all(own[name].equal(value) for name, value in last(straight).model.items())
    # A run that is judged by its average is used by it.
    by = Predictor(file, device="cpu", overrides=["eval.best_metric=ema/segm/AP"]).model.state_dict()
    assert_equal(dict(by), dict(average))


def test_best_by_the_average(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wish = "eval.best_metric=ema/bbox/AR100"
    train(load_recipe(recipe_file, [*EMA, wish]), tmp_path / "run", console=Console(quiet=True))
    told = {r["step"]: r["ema/bbox/AR100"] for r in evaluations(tmp_path / "run")}
    best = load(tmp_path / "run/checkpoints/best.pt").best
    assert best == {"ema/bbox/AR100": max(told.values()), "step": max(told, key=lambda s: (told[s], -s))}
    command = ["train", str(recipe_file), "--output", str(tmp_path / "none"), "--set", wish]
    assert main(command) == 2
    told_of = capsys.readouterr().err
    sentence = "solver.ema is null, so there is none; set solver.ema to {}, or eval.best_metric to bbox/AR100"
    assert sentence in told_of
    assert main([*command, "--set", "solver.ema={}", "--set", "solver.steps=1"]) == 0


def test_a_checkpoint_without_it_is_told_and_the_advice_works(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    short = ["--set", "solver.steps=1", "--set", "data.val=null", "--set", "solver.schedule.warmup_steps=0"]
    assert main(["train", str(recipe_file), "--output", str(run), *short]) == 0
    with_plugin = ["--set", "plugins=[tests.engine.tiny_backbone]"]
    command = ["eval", str(recipe_file), "--checkpoint", str(run)]
    capsys.readouterr()
    assert main([*command, "--set", "eval.ema=true", *with_plugin]) == 2
    told = capsys.readouterr().err
    assert "last.pt: holds no average of the weights" in told and told.count("\n") == 1
    assert main([*command, "--set", "eval.ema=false", *with_plugin]) == 0

    before = last(run).model
    more = ["train", str(recipe_file), "--resume", str(run), "--set", "data.val=null"]
    more += ["--set", "solver.steps=2", "--set", "solver.schedule.warmup_steps=0"]
    ema = ["--set", "solver.ema={decay: 0.5, warmup: 1}"]
    capsys.readouterr()
    assert main([*more, *ema, "--strict"]) == 2
    sentence = "holds no average of the weights (solver.ema), so it begins with the weights of that step"
    assert sentence in capsys.readouterr().err
    assert main([*more, *ema]) == 0
    assert capsys.readouterr().err.count(sentence) == 1
    for name, value in last(run).more["ema"].items():
        torch.testing.assert_close(value, (before[name] + last(run).model[name]) / 2)
    # And without the key again.
    assert main([*more, "--set", "solver.steps=3"]) == 0
    assert "holds 'ema', which is left out, since solver.ema is not set now" in capsys.readouterr().err
    assert last(run).more.keys() == {"shares"}


def test_it_begins_with_the_weights_that_training_begins_with(recipe_file: Path, tmp_path: Path) -> None:
    common = ["data.val=null", "solver.steps=1"]
    train(load_recipe(recipe_file, [*common, "seed=5"]), tmp_path / "other", console=Console(quiet=True))
    file = tmp_path / "other/checkpoints/last.pt"
    wishes = [*common, "solver.ema={decay: 0.75, warmup: 1}", f"weights={file}"]
    train(load_recipe(recipe_file, wishes), tmp_path / "run", console=Console(quiet=True))
    begun, ended = load(file).model, last(tmp_path / "run")
    moved = 0.0
    for name, value in ended.more["ema"].items():
        torch.testing.assert_close(value, 0.75 * begun[name] + 0.25 * ended.model[name])
        moved += float((ended.model[name] - begun[name]).abs().sum())
    assert moved > 0 and math.isfinite(moved)


def test_other_tensors_are_refused(
    recipe_file: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(recipe_file), "--resume", str(straight), "--set", "solver.steps=7"]
    frozen = ["--set", "solver.freeze=[roi.mask_head]", "--set", "train.allow_frozen_random=true"]
    settings = [part for wish in EMA for part in ("--set", wish)]
    before = {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    assert main([*command, *settings, *frozen]) == 2
    assert "keep solver.optimizer" in capsys.readouterr().err  # the optimizer's says so first
    assert before == {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    average = WeightAverage(choose_strategy(ALONE, nn.Linear(2, 2)), decay=0.9, warmup=1.0)
    with pytest.raises(ValueError, match="it averages other weights: bias, other"):
        average.load({"weight": torch.ones(2, 2), "other": torch.ones(2)}, Path("x.pt"))


@pytest.mark.parametrize("deferred", [False, True])
def test_a_step_that_is_left_out_does_not_move_it(deferred: bool) -> None:
    step, average = make(max_skipped=3, deferred=deferred)
    step.queue(0, iter([batch(0)]), Wishes)
    step.read()
    before = {name: value.clone() for name, value in average.state().items()}
    step.queue(1, iter([bad_loss()]), Wishes)
    step.read()
    assert_equal(average.state(), before)
    step.queue(2, iter([batch(2)]), Wishes)
    step.read()
    assert not average.state()["linear.weight"].equal(before["linear.weight"])
