"""CONTRIBUTING's recipe for a head, followed to the letter: one file, and no edit of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.config import loads
from maskrcnn.engine.checkpoint import Checkpoint, load
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.run import Predictor
from tests.engine.tiny import write_data, write_recipe
from tests.rules.pages import ROOT, blocks

LAYER = ("roi.fill.fill.weight", "roi.fill.fill.bias")


def write_with_head(folder: Path) -> Path:
    """The tiny recipe with the page's two blocks."""
    path = write_recipe(folder)
    source, *_ = (text for text in blocks(ROOT / "CONTRIBUTING.md", "python") if "ROI_HEADS" in text)
    (folder / "fill_head.py").write_text(source)
    tiny = path.rename(folder / "without.yaml")
    section = next(text for text in blocks(ROOT / "CONTRIBUTING.md", "yaml") if "heads:" in text)
    path.write_text(f"base: {tiny.name}\n{section}")
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_with_head(tmp_path_factory.mktemp("head"))


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    folder = recipe.parent / "run"
    command = ["train", str(recipe), "--output", str(folder), "--set", "train.checkpoint_every=3"]
    assert main(command) == 0
    return folder


def last(folder: Path) -> Checkpoint:
    return load(folder / "checkpoints" / "last.pt")


def test_it_trains_and_is_saved(recipe: Path, run: Path) -> None:
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    terms = ("loss_rpn_cls", "loss_rpn_box", "loss_box_cls", "loss_box_reg", "loss_mask", "loss_fill")
    assert len(rows) == 6
    for row in rows:
        assert row["loss_fill"] > 0
        assert row["loss"] == pytest.approx(sum(row[term] for term in terms))
    first, end = load(run / "checkpoints" / "step_00000003.pt").model, last(run).model
    assert all(not first[name].equal(end[name]) for name in LAYER)
    assert (run / "config.yaml").read_text().count("fill") > 1


def test_nothing_else_changes_its_start(recipe: Path, run: Path) -> None:
    """The first step's other losses are those of the model without the head, to the bit."""
    plain = recipe.parent / "plain"
    settings = ["--set", "solver.steps=1", "--set", "data.val=null"]
    assert main(["train", str(recipe.parent / "without.yaml"), "--output", str(plain), *settings]) == 0
    (theirs, *_), (ours, *_) = (read_metrics(folder / "metrics.jsonl") for folder in (plain, run))
    terms = [name for name in theirs if name.startswith("loss_")]
    assert len(terms) == 5
    assert {name: ours[name] for name in terms} == {name: theirs[name] for name in terms}


def test_it_resumes_to_the_bit(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for name in ("last.pt", "step_00000006.pt"):
        (again / "checkpoints" / name).unlink()
    assert main(["train", "--resume", str(again)]) == 0
    ours, theirs = last(again), last(run)
    assert ours.step == theirs.step == 6
    assert all(ours.model[name].equal(value) for name, value in theirs.model.items())


def test_it_is_in_results_and_predictions(run: Path, tmp_path: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results and all(0 < record["fill"] < 1 for record in results)
    image = run.parent / "images" / "101.png"
    command = ["predict", "--checkpoint", str(run), "--score", "0", "--out", str(tmp_path), str(image)]
    assert main(command) == 0
    records = json.loads((tmp_path / "predictions.json").read_text())
    found = Predictor(run, device="cpu", score=0.0)(image)
    assert len(found) > 1
    assert found.extras["fill"].shape == (len(found),) and len(np.unique(found.extras["fill"])) > 1
    assert [record["fill"] for record in records] == found.extras["fill"].tolist()


def test_other_classes_start_it_afresh(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_with_head(tmp_path)
    write_data(tmp_path / "images", names=("one", "two", "three"))
    settings = ["solver.steps=1", "data.val=null", f"weights={run / 'checkpoints' / 'last.pt'}"]
    changes = [word for text in settings for word in ("--set", text)]
    capsys.readouterr()
    assert main(["train", str(path), "--output", str(tmp_path / "a"), *changes]) == 0
    out = capsys.readouterr().out
    assert "0 of 3 classes have a namesake" in out and "rows by class: roi.box_head" in out
    assert f"{LAYER[0].rpartition('.')[0]}," in out
    assert main(["train", str(path), "--output", str(tmp_path / "b"), *changes, "--drop-head"]) == 0
    assert last(tmp_path / "b").model[LAYER[0]].shape[0] == 3
    from maskrcnn.weights.restore import drop_head

    two = MaskRCNNConfig(heads=Predictor(run, device="cpu").recipe.model.heads).build(2)
    kept, dropped = drop_head(two.state_dict(), two)
    assert {*LAYER} <= {*dropped} and not {*LAYER} & {*kept} and len(dropped) == 8


@pytest.mark.parametrize("name", ["mask_head", "trunk", "score", "train", "mask", "my head", "box_heads"])
def test_a_name_that_is_taken_is_told_by_place(run: Path, name: str) -> None:
    text = f'heads:\n  "{name}": fill\n'
    with pytest.raises(
        ConfigError, match=rf"f:2:3: heads: heads cannot hold one called '{name}'.*choose another"
    ):
        loads(MaskRCNNConfig, text, "f")
    assert loads(MaskRCNNConfig, "heads: {other: fill, fill: fill}", "f").heads
