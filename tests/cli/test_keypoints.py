"""Keypoint R-CNN from the config to the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.run import Predictor
from maskrcnn.structures import Detections
from tests.engine.tiny import RECIPE

KEYPOINTS = "eval: {{sigmas: [0.05, 0.05, 0.05, 0.05]}}"


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe with masks and keypoints, on generated crescents."""
    folder = tmp_path_factory.mktemp("keypoints")
    path = folder / "tiny.yaml"
    head = "  keypoint_head: {{num_keypoints: 4, convs: 1, width: 16, pool_size: 7, type: conv}}\ndata:\n"
    text = (
        RECIPE.replace("eval: {{report: false}}", KEYPOINTS).replace("data:\n", head, 1).format(folder=folder)
    )
    for split, count in (("train", 6), ("val", 3)):
        start = text.index(f"  {split}: {{")
        stop = text.index("\n", start)
        data = (
            f"type: synthetic, keypoints: true, size: 64, split: {split}, num_images: {count}, root: {folder}"
        )
        text = text[:start] + f"  {split}: {{{data}}}" + text[stop:]
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(recipe_file: Path) -> Path:
    folder = recipe_file.parent / "run"
    changes = ["--set", "solver.steps=3", "--set", "train.pictures=1"]
    assert main(["train", str(recipe_file), "--output", str(folder), *changes]) == 0
    return folder


def test_a_run_trains_and_judges_keypoints_beside_masks(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss_keypoint"] for r in records if "loss_keypoint" in r]
    # A heat map of 28 x 28 cells that knows nothing costs log 784 = 6.7.
    assert len(losses) == 3 and all(3 < v < 10 for v in losses)
    assert all(r["loss_mask"] > 0 for r in records if "loss_keypoint" in r)
    figures = json.loads((run / "figures.json").read_text())["figures"]
    assert list(figures) == ["bbox", "segm", "keypoints"]
    assert "AR50" in figures["keypoints"]
    assert "keypoints" in (run / "report.html").read_text()
    results = json.loads((run / "results.json").read_text())
    assert results and all(len(r["keypoints"]) == 12 and "segmentation" in r for r in results)
    assert len(list((run / "pictures").iterdir())) == 1


def test_evaluation_again_gives_the_same_and_takes_sigmas(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--checkpoint", str(run)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("keypoints"))
    figures = json.loads((run / "figures.json").read_text())["figures"]["keypoints"]
    assert row.split()[1:] == ["n/a" if v is None else f"{v:.3f}" for v in figures.values()]
    assert main(["eval", "--checkpoint", str(run), "--set", "eval.sigmas=null"]) == 2
    assert "COCO's are for 17 keypoints, not 4" in capsys.readouterr().err


def test_prediction_has_keypoints_in_the_images_frame(run: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    found = Predictor(run, device="cpu", score=0.0)(image)
    assert len(found) and found.keypoints is not None
    assert found.keypoints.shape == (len(found), 4, 3)
    low, high = found.boxes[:, None, :2], found.boxes[:, None, 2:]
    assert ((found.keypoints[..., :2] >= low - 1) & (found.keypoints[..., :2] <= high + 1)).all()
    record = np.array(found.records[0]["keypoints"]).reshape(4, 3)
    np.testing.assert_allclose(record + np.array([0.5, 0.5, 0]), found.keypoints[0], rtol=1e-5)
    assert found.draw().ndim == 3
    nothing = Predictor(run, device="cpu", score=1.0)(image)
    assert nothing.keypoints is not None and nothing.keypoints.shape == (0, 4, 3)


def test_pictures_show_the_keypoints(run: Path) -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    predictor = Predictor(run, device="cpu", score=0.0)
    found = predictor(image)
    assert found.keypoints is not None
    with_points = found.draw()
    found.keypoints[..., 2] = 9.0
    assert not np.array_equal(found.draw(), with_points)
    path = next((run / "pictures").iterdir())
    assert cv2.imread(str(path)) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.train.keypoints=false"], "set data.train.keypoints to true"),
        (["model.keypoint_head.num_keypoints=5"], "set model.keypoint_head.num_keypoints to 4"),
        (["model.keypoint_head=null", "eval.iou_types=[keypoints]"], "the model has no keypoint head"),
        (["eval.sigmas=[0.1,0.1]"], "eval.sigmas has 2 numbers"),
    ],
)
def test_mistakes_end_in_a_sentence(
    recipe_file: Path, tmp_path: Path, changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        part for item in (*changes, "solver.steps=1", "data.val.num_images=1") for part in ("--set", item)
    ]
    if "data.train.keypoints=false" in changes:  # another class list; both sets alike
        settings += ["--set", "data.val.keypoints=false"]
    assert main(["train", str(recipe_file), "--output", str(tmp_path / "run"), *settings]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "step 1/1" not in said.out, "it should be said before training"


def test_what_lies_outside_the_image_is_dropped_with_its_keypoints(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(run, device="cpu", score=0.0)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = predictor(pixels)
    predict = predictor.model.predict

    def moved(*args: Any) -> list[Detections]:
        (found,) = predict(*args)
        boxes = found.boxes.clone()
        boxes[::2] += 1000
        return [replace(found, boxes=boxes)]

    monkeypatch.setattr(predictor.model, "predict", moved)
    half = predictor(pixels)
    assert 0 < len(half) == len(whole) // 2
    for name in ("boxes", "scores", "labels", "keypoints"):
        assert np.array_equal(getattr(half, name), getattr(whole, name)[1::2]), name
    assert half.records == whole.records[1::2]


def test_scores_are_probabilities_where_asked_for(run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    logits = Predictor(run, device="cpu", score=0.0)(pixels)
    key = "model.keypoint_head.scores=probability"
    found = Predictor(run, device="cpu", score=0.0, overrides=[key])(pixels)
    assert (logits.keypoint_scores, found.keypoint_scores) == ("logit", "probability")
    assert logits.keypoints is not None and found.keypoints is not None
    assert np.array_equal(logits.keypoints[..., :2], found.keypoints[..., :2])
    assert ((found.keypoints[..., 2] > 0) & (found.keypoints[..., 2] < 1)).all()
    assert not np.array_equal(logits.keypoints[..., 2], found.keypoints[..., 2])
    written = np.array([r["keypoints"][2::3] for r in found.records])
    assert np.array_equal(written, found.keypoints[..., 2])
    # Drawn above 0.05, Detectron2's threshold, and not above a logit's 2, which no probability reaches.
    shown = replace(found, keypoints=np.where([[[False, False, True]]], 0.06, found.keypoints)).draw()
    hidden = replace(found, keypoints=np.where([[[False, False, True]]], 0.04, found.keypoints)).draw()
    assert not np.array_equal(shown, hidden)


@pytest.mark.parametrize("keypoints", ["true", "false"])
def test_val_data_without_keypoints_are_told_before_training(
    recipe_file: Path, run: Path, tmp_path: Path, keypoints: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(recipe_file.parent.glob("medium-keypoints-val-3x64px-*"))
    content = json.loads((folder / "annotations.json").read_text())
    for annotation in content["annotations"]:
        annotation.pop("keypoints")
    (tmp_path / "val.json").write_text(json.dumps(content))
    val = f"{{type: coco, images: {folder}/images, annotations: {tmp_path}/val.json, keypoints: {keypoints}}}"
    changes = ["--set", "solver.steps=1", "--set", f"data.val={val}"]
    command = ["train", str(recipe_file), "--output", str(tmp_path / "run"), *changes]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "no annotation has 'keypoints', which are to be evaluated; leave keypoints out" in said.err
    assert "step 1/1" not in said.out
    assert main(["eval", "--checkpoint", str(run), *changes[2:]]) == 2
    assert "no annotation has 'keypoints', which are to be evaluated" in capsys.readouterr().err
    assert main([*command, "--set", "eval.iou_types=[bbox, segm]"]) == 0  # the advice followed
