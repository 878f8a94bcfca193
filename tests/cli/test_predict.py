from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.cli.predict import find_images, overlay_names
from maskrcnn.errors import DataError, UserError
from maskrcnn.run import Predictor
from tests.engine.tiny import write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    path = write_recipe(folder)
    changes = ["--set", "solver.steps=2", "--set", "data.val=null"]
    assert main(["train", str(path), "--output", str(folder / "run"), *changes]) == 0
    return folder / "run"


def test_folders_and_patterns_are_predicted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = run.parent / "images"
    out = tmp_path / "out"
    inputs = [str(images / "10*.png"), str(images / "1.png")]
    assert main(["predict", "--checkpoint", str(run), "--score", "0", "--out", str(out), *inputs]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "1.png",
        "101.png",
        "102.png",
        "103.png",
        "predictions.json",
    ]
    records = json.loads((out / "predictions.json").read_text())
    assert {r["file_name"] for r in records} == {str(images / f"{i}.png") for i in (1, 101, 102, 103)}
    assert {(r["category_id"], r["category"]) for r in records} <= {(2, "box"), (5, "disc")}
    assert all("segmentation" in r and 0 <= r["score"] <= 1 for r in records)
    assert "4 images" in capsys.readouterr().out


def test_an_unreadable_image_is_named_and_the_others_are_done(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    inputs = [str(bad), str(run.parent / "images" / "101.png")]
    assert main(["predict", "--checkpoint", str(run), "--out", str(tmp_path / "out"), *inputs]) == 2
    assert (tmp_path / "out" / "101.png").exists()
    assert (tmp_path / "out" / "predictions.json").exists()
    err = capsys.readouterr().err
    assert "bad.png" in err
    assert "1 of 2 images could not be read" in err


def test_scores_below_the_threshold_are_left_out(run: Path) -> None:
    image = run.parent / "images" / "101.png"
    everything = Predictor(run, device="cpu", score=0.0)(image)
    assert len(everything) > 1
    middle = float(everything.scores[1])
    some = Predictor(run, device="cpu", score=middle)(image)
    assert some.scores.tolist() == [s for s in everything.scores.tolist() if s >= middle]
    nothing = Predictor(run, device="cpu", score=1.0)(image)
    assert (len(nothing), nothing.boxes.shape, nothing.draw().shape[2]) == (0, (0, 4), 3)


def test_arrays_of_any_size_give_masks_in_their_own_frame(run: Path) -> None:
    predictor = Predictor(run, device="cpu", score=0.0)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    found = predictor(pixels)
    assert found.masks is not None
    assert found.masks.shape == (len(found), 50, 90)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [90, 50, 90, 50]).all()
    assert len(predictor(pixels[:, :, 0])) >= 0
    with pytest.raises(DataError, match=r"float64 \(50, 90, 3\)"):
        predictor(pixels / 255.0)


def test_a_file_and_its_pixels_give_the_same(run: Path) -> None:
    path = run.parent / "images" / "102.png"
    predictor = Predictor(run, device="cpu", score=0.0)
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert predictor(path).records == predictor(pixels).records


def test_inputs_that_name_nothing_are_told(tmp_path: Path) -> None:
    for item, word in (
        (str(tmp_path), "no images in this folder"),
        ("nope.png", "no such image"),
        ("*.nope", "no file"),
    ):
        with pytest.raises(UserError, match=word):
            find_images([item])


def test_images_of_one_name_get_names_of_their_own() -> None:
    names = overlay_names([Path("a/x.png"), Path("b/x.jpg"), Path("c/X.png")])
    assert list(names.values()) == ["x.png", "x_2.png", "X_3.png"]
