"""`maskrcnn package`: a folder that is taken as a checkpoint is, without run and data, and never half."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn import Model
from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.checkpoint_folder import find_checkpoint
from maskrcnn.errors import CheckpointError
from maskrcnn.recipe import load_recipe
from maskrcnn.run import Predictor, package
from maskrcnn.run.package_card import Stated, card
from maskrcnn.run.thresholds import Thresholds, write_thresholds
from maskrcnn.viz.model_card import ModelCard
from tests.engine.tiny import write_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its data, and a run of it with a report."""
    place = tmp_path_factory.mktemp("made")
    options = ["--set", "solver.steps=2", "--set", "eval.report=true"]
    assert main(["train", str(write_recipe(place)), "--output", str(place / "run"), *options]) == 0
    write_thresholds(place / "run/checkpoints/best.pt", Thresholds({"box": 0.125, "disc": 0.875}))
    return place


@pytest.fixture(scope="module")
def packed(place: Path) -> Path:
    words = ["--licence", "CC0-1.0", "--use", "Boxes | and <discs>."]
    assert main(["package", str(place / "run"), "--out", str(place / "boxes"), *words]) == 0
    return place / "boxes"


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_it_is_a_checkpoint_wherever_one_is_taken(
    place: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where neither run nor data are any more, from another folder."""
    wanted = Predictor(place / "run", score=0.0)(image()).records
    there = tmp_path / "another machine" / "boxes"
    shutil.copytree(packed, there)
    for name in ("run", "images"):
        (place / name).rename(place / f"{name}.away")
    try:
        assert Predictor(there, score=0.0)(image()).records == wanted and len(wanted) == 10
        model = Model(there)
        assert model.classes == ("box", "disc") and len(model.predict(image(), score=0.0)[0]) == 10
        cv2.imwrite(str(tmp_path / "photo.png"), image())
        words = [str(tmp_path / "photo.png"), "--checkpoint", str(there), "--out", str(tmp_path / "out")]
        assert main(["predict", *words]) == 0
        assert "box 0.125, disc 0.875" in capsys.readouterr().err
    finally:
        for name in ("run", "images"):
            (place / f"{name}.away").rename(place / name)
    assert main(["eval", "--checkpoint", str(there)]) == 0
    assert "segm" in capsys.readouterr().out
    recipe = load_recipe(there / "config.yaml")
    assert recipe.weights == there / "model.pt"


def test_another_training_starts_from_it(packed: Path, tmp_path: Path) -> None:
    """Of its config as it stands, whose weights are the package's."""
    options = [part for wish in ("solver.steps=1", "solver.optimizer.lr=1e-30") for part in ("--set", wish)]
    assert main(["train", str(packed / "config.yaml"), "--output", str(tmp_path / "run"), *options]) == 0
    before, after = load(packed / "model.pt").model, load(tmp_path / "run/checkpoints/last.pt").model
    assert all(after[name].equal(value) for name, value in before.items())


@pytest.mark.parametrize("words", [["--resume"], []])
def test_it_is_no_run_folder(
    packed: Path, place: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(packed.iterdir())
    command = ["train", str(place / "tiny.yaml"), "--output", str(packed), *words]
    assert main(command) == 2
    assert "is a package for inference (maskrcnn package) and no run folder" in capsys.readouterr().err
    assert sorted(packed.iterdir()) == before


def test_the_card(packed: Path, place: Path) -> None:
    text = (packed / "README.md").read_text(encoding="utf-8")
    figures = json.loads((place / "run/report.json").read_text())
    ap = figures["figures"]["segm"]["AP50"]
    assert f"{ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})" in text
    assert "CC0-1.0" in text and "Boxes \\| and &lt;discs>." in text
    assert "On 3 images" in text and "train.json" in text and str(place) not in text
    assert "| box | 0.12 |" in text and "| disc | 0.88 |" in text
    costs = figures["tide"]["segm"]["errors"]
    worst = max(costs, key=lambda name: costs[name]["cost"] or 0)
    failures = text[text.index("## Known failures") : text.index("## What it is made of")]
    assert failures.splitlines()[2].startswith(f"- {worst}: ")
    assert "tests.engine.tiny_backbone" in text  # the plugin that it needs
    for number in (1, 2):
        assert f"pictures/{number}.jpg" in text
        assert cv2.imread(str(packed / f"pictures/{number}.jpg")).shape[2] == 3


def test_without_a_report_and_data(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint alone: the card says what it does not know."""
    shutil.copy(place / "run/checkpoints/last.pt", tmp_path / "mine.pt")
    lost = ["--set", "data.val.annotations=/nowhere/val.json"]
    assert main(["package", str(tmp_path / "mine.pt"), "--out", str(tmp_path / "out"), *lost]) == 0
    told, text = capsys.readouterr().out, (tmp_path / "out/README.md").read_text()
    assert "no pictures, since" in told and "finds on noise what its original does" in told
    assert "Not stated" in text and "Not known: no report" in text and "segm/AP" in text


def test_a_report_of_another_checkpoint_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = json.loads((place / "run/report.json").read_text())
    figures["about"]["step"] = 1
    (tmp_path / "page.json").write_text(json.dumps(figures))
    (tmp_path / "other.json").write_text("[]")
    out = ["--out", str(tmp_path / "out"), "--pictures", "0"]
    for name, why in (("page", "is of step 1"), ("other", "is not the json of a report")):
        assert main(["package", str(place / "run"), "--report", str(tmp_path / f"{name}.json"), *out]) == 2
        assert why in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_nothing_is_replaced(packed: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in packed.iterdir() if path.is_file()}
    assert main(["package", str(place / "run"), "--out", str(packed)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in packed.iterdir() if path.is_file()} == before


def test_an_empty_folder_is_taken(place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    words = ["--out", str(tmp_path / "out"), "--pictures", "0"]
    assert main(["package", str(place / "run"), *words]) == 0
    assert find_checkpoint(tmp_path / "out") == tmp_path / "out/model.pt"


def test_what_differs_from_its_original_is_not_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = package.for_inference

    def wrong(*args: object) -> object:
        state, recipe = real(*args)  # type: ignore[arg-type]
        for value in state.model.values():
            if value.is_floating_point():
                value.mul_(1.5)
        return state, recipe

    monkeypatch.setattr(package, "for_inference", wrong)
    assert main(["package", str(place / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "finds something else than its original" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_half_way_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "card", full)
    assert main(["package", str(place / "run"), "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["model.pt", "model.thresholds.json", "package.json", "half"])
def test_half_a_copy_is_told(packed: Path, tmp_path: Path, harm: str) -> None:
    there = tmp_path / "boxes"
    shutil.copytree(packed, there)
    if harm == "half":
        (there / "model.pt").write_bytes((there / "model.pt").read_bytes()[:5000])
    elif harm == "package.json":
        (there / harm).write_text("{")
    else:
        (there / harm).unlink()
    with pytest.raises(CheckpointError, match="this package is not whole.*copy the folder again"):
        Predictor(there)


def test_words_and_scores_may_be_mended_by_hand(packed: Path, tmp_path: Path) -> None:
    there = tmp_path / "boxes"
    shutil.copytree(packed, there)
    (there / "README.md").write_text("better")
    (there / "model.thresholds.json").write_text('{"scores": {"box": 0.125}}')
    assert Predictor(there).thresholds == (0.125, 0.5)


def test_a_card_of_many_classes_and_names_that_could_break_it() -> None:
    names = {f"class {i} | <b>": 0.5 for i in range(100)}
    text = ModelCard("m", "", "", {"torchvision/x": "BSD"}, {}, {}, names).markdown()
    assert "and 60 more classes" in text and "and 92 more classes" in text
    assert "<b>" not in text and "class 1 \\| &lt;b>" in text
    assert "Training began from torchvision/x, whose licence is BSD." in text
    assert "This checkpoint was not evaluated." in text


@pytest.mark.parametrize(("file", "told"), [("/home/me/secret/lite0.pth", "lite0.pth"), ("timm/x", "timm/x")])
def test_a_card_names_weights_and_not_where_they_lay(place: Path, file: str, told: str) -> None:
    path = find_checkpoint(place / "run")
    recipe = replace(load_recipe(place / "run/config.yaml"), weights=Path(file))
    made = card("m", path, load(path), recipe, {}, Stated(), None, ())
    assert list(made.started_from) == [told]
