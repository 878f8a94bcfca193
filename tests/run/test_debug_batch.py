"""Steps that are not finite: stopped or left out, their batch kept, and looked at."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.cli import main
from maskrcnn.engine.console import Console
from maskrcnn.engine.faults import NonFiniteError
from maskrcnn.engine.step import Step
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.roi.box_head import BoxPredictor
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train, training
from maskrcnn.run.kept_batch import read_kept
from tests.engine.tiny import write_recipe
from tests.test_resume import assert_same_state, last


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


class Poison:
    """Multiplies a layer's output by ``factor`` in some passes of training, counted from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes, self.bad, self.factor = -1, set[int](), torch.nan
        forward, predict = MaskRCNN.forward, BoxPredictor.forward

        def count(model: MaskRCNN, images: Any, targets: Any = None, *args: Any) -> Any:
            self.passes += targets is not None
            return forward(model, images, targets, *args)

        def poisoned(layer: BoxPredictor, x: Tensor) -> tuple[Tensor, Tensor]:
            logits, deltas = predict(layer, x)
            return (logits * self.factor if self.passes in self.bad else logits), deltas

        monkeypatch.setattr(MaskRCNN, "forward", count)
        monkeypatch.setattr(BoxPredictor, "forward", poisoned)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    return Poison(monkeypatch)


def test_what_made_a_step_not_finite_is_kept_and_shown(
    recipe_file: Path, poison: Poison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    poison.bad = {5}
    recipe = load_recipe(recipe_file, ["solver.accumulate=2", "data.val=null", "train.checkpoint_every=1"])
    with pytest.raises(
        NonFiniteError, match=r"step 3: loss_box_cls is nan.* maskrcnn debug-batch (\S+)\."
    ) as error:
        train(recipe, run, console=Console(quiet=True))
    folder = run / "nonfinite" / "step_00000003"
    assert str(folder) in str(error.value)
    found, state, (kept,) = read_kept(folder)
    assert found == recipe
    assert state.step == kept.step == 2
    saved = last(run)
    assert all(tensor.equal(state.model[name]) for name, tensor in saved.model.items())
    # The batch is the step's own: its losses are, to the bit, those of the step once the poison is gone.
    poison.bad = {0}
    poison.passes = -2
    assert main(["debug-batch", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "pass 2 of 2:" in out
    assert "loss_box_cls nan" in out
    assert "the first layer whose output is not finite: roi.box_head.predictor (BoxPredictor)" in out
    assert len(list((folder / "pictures").glob("*.png"))) == 2
    assert "disc" in out
    assert main(["debug-batch", str(folder), "--no-pictures"]) == 0
    assert "nothing is other than finite this time" in capsys.readouterr().out


def test_gradients_whose_squares_overflow_are_told(
    recipe_file: Path, poison: Poison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poison.bad, poison.factor = {1}, 1e25
    recipe = load_recipe(recipe_file, ["data.val=null"])
    with pytest.raises(NonFiniteError, match="the gradient's norm is inf"):
        train(recipe, tmp_path / "run", console=Console(quiet=True))
    poison.passes = 0
    assert main(["debug-batch", str(tmp_path / "run/nonfinite/step_00000002"), "--no-pictures"]) == 1
    out = capsys.readouterr().out
    assert "every loss and gradient is finite, and the sum of the gradients' squares is not: up to" in out
    assert "nothing is other than finite" not in out


def test_losses_are_those_of_the_step(recipe_file: Path, poison: Poison, tmp_path: Path) -> None:
    """A batch that is kept gives the losses of the step, masks and all, to the bit."""
    run, losses = tmp_path / "run", list[dict[str, float]]()
    recipe = load_recipe(recipe_file, ["data.val=null", "solver.steps=3"])
    forward = MaskRCNN.forward

    def told(model: MaskRCNN, *args: Any) -> Any:
        found = forward(model, *args)
        losses.append({name: float(value.detach()) for name, value in found.items()})
        return found

    poison.bad = {1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskRCNN, "forward", told)
        with pytest.raises(NonFiniteError):
            train(recipe, run, console=Console(quiet=True))
        assert main(["debug-batch", str(run / "nonfinite" / "step_00000002"), "--no-pictures"]) == 0
    bad, again = losses[1], losses[2]
    same = [name for name in bad if name != "loss_box_cls"]
    assert len(same) == 4
    assert {name: again[name] for name in same} == {name: bad[name] for name in same}


def test_pixels_and_weights_that_are_not_finite_are_told(
    recipe_file: Path, poison: Poison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poison.bad = {0}
    with pytest.raises(NonFiniteError):
        train(load_recipe(recipe_file, ["data.val=null"]), tmp_path / "run", console=Console(quiet=True))
    folder = tmp_path / "run" / "nonfinite" / "step_00000001"
    content = torch.load(folder / "batch_rank_0.pt", weights_only=True)
    image = content["batches"][0]["images"][0].float()
    image[0, 0, 0] = torch.nan
    content["batches"][0]["images"][0] = image
    torch.save(content, folder / "batch_rank_0.pt")
    state = torch.load(folder / "state.pt", weights_only=True)
    next(tensor for name, tensor in state["model"].items() if name.startswith("neck")).fill_(torch.inf)
    torch.save(state, folder / "state.pt")
    assert main(["debug-batch", str(folder), "--no-pictures"]) == 1
    out = capsys.readouterr().out
    assert "pixels that are not finite" in out
    assert "weights that are not finite before the step: neck" in out


@pytest.mark.parametrize("deferred", [False, True])
def test_steps_that_are_left_out_are_counted_and_resumed_to_the_bit(
    recipe_file: Path,
    poison: Poison,
    tmp_path: Path,
    deferred: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:

    monkeypatch.setattr(training, "Step", partial(Step, deferred=deferred))
    keys = ["data.val=null", "train.on_nonfinite=skip", "train.max_skipped=2"]
    recipe = load_recipe(recipe_file, [*keys, f"train.log_every={6 if deferred else 1}"])
    poison.bad = {1, 3, 4}
    train(recipe, tmp_path / "straight")
    told = capsys.readouterr().err
    assert [f"step {n}: loss_box_cls is nan, on image" in told for n in range(1, 7)] == [
        *(False, True, False, True, True, False)
    ]
    assert told.count("maskrcnn debug-batch") == 1
    whole = last(tmp_path / "straight")
    assert whole.more["recovery"] == {"pieces": 1, "skipped": 3, "in_a_row": 0}
    assert all(tensor.isfinite().all() for tensor in whole.model.values())
    # In the middle of a row of two: what is left of it counts on.
    parted = tmp_path / "parted"
    poison.passes = -1
    short = load_recipe(recipe_file, [*keys, "solver.steps=4"])
    train(short, parted, console=Console(quiet=True))
    assert last(parted).more["recovery"] == {"pieces": 1, "skipped": 2, "in_a_row": 1}
    train(recipe, parted, resume=True, console=Console(quiet=True))
    assert_same_state(whole, last(parted))
    # One more in a row is too many, also where a resumption lies in between.
    other = tmp_path / "other"
    poison.bad |= {5}
    poison.passes = -1
    train(short, other, console=Console(quiet=True))
    with pytest.raises(NonFiniteError, match="step 6: .*as were the 2 before"):
        train(recipe, other, resume=True, console=Console(quiet=True))


def test_a_folder_without_a_batch_is_told_what_to_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nonfinite" / "step_00000007").mkdir(parents=True)
    assert main(["debug-batch", str(tmp_path)]) == 2
    assert f"name one of {tmp_path / 'nonfinite' / 'step_00000007'}" in capsys.readouterr().err
