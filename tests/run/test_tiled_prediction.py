"""Images of any size, predicted window by window, from Python and by ``maskrcnn predict --tiles``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.data.images import read_image
from maskrcnn.data.interfaces import TilesConfig
from maskrcnn.engine.checkpoint import load, save
from maskrcnn.engine.console import Console
from maskrcnn.errors import DataError
from maskrcnn.recipe import load_recipe
from maskrcnn.run import Predictor, predictor, tiled_prediction, train
from maskrcnn.run.tiled_prediction import tiled_stream
from maskrcnn.run.tiling import choose_tiling
from tests.run.test_tiled_evaluation import BOXES, Knows, recipe_on_tiles


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    keys = ["solver.steps=1", "data.val=null", "data.tiles=null", "data.eval_transforms=[]"]
    train(load_recipe(recipe_on_tiles(folder), keys), folder / "run", console=Console(quiet=True))
    return folder / "run"


@pytest.fixture
def knowing(run: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.setattr(predictor, "load_model", lambda *_: Knows())
    return Predictor(run, device="cpu", overrides=["eval.cuda_graphs=false"])


def xywh(found: Any) -> list[list[float]]:
    return sorted(record["bbox"] for record in found.records)


@pytest.mark.parametrize("kind", ["png", "tif", "array"])
def test_windows_find_what_the_whole_image_shows(
    knowing: Predictor, run: Path, tmp_path: Path, kind: str
) -> None:
    image: Any = run.parent / "images" / "2.png"
    whole = knowing(image)
    pixels = read_image(image)
    if kind == "tif":
        image = tmp_path / "tiles.tif"
        pytest.importorskip("tifffile").imwrite(image, pixels, tile=(32, 32), photometric="rgb")
    elif kind == "array":
        image = pixels
    told: list[tuple[int, int | None]] = []
    found = knowing.tiled(image, size=96, overlap=0.2, progress=lambda p: told.append((p.done, p.total)))
    assert told == [(k, 6) for k in range(1, 7)]
    assert xywh(found) == xywh(whole) == sorted(map(list, BOXES[1]))
    assert found.size == (150, 200) and found.name == ("" if kind == "array" else str(image))
    np.testing.assert_array_equal(found.image, pixels)
    order, other = (np.lexsort(p.boxes.T) for p in (found, whole))
    assert found.masks is not None and whole.masks is not None
    np.testing.assert_array_equal(found.masks[order], whole.masks[other])
    np.testing.assert_array_equal(found.scores[order], whole.scores[other])
    assert found.classes == whole.classes


def test_tiles_are_as_the_model_was_trained(run: Path, tmp_path: Path) -> None:
    file = run / "checkpoints" / "last.pt"
    plain = load_recipe(run.parent / "tiles.yaml", ["data.tiles=null"])
    trained = load_recipe(run.parent / "tiles.yaml")
    assert trained.data.tiles == TilesConfig(size=96, overlap=0.2)
    assert str(choose_tiling(trained, (150, 200))) == "96 px, which overlap by 20% (data.tiles)"
    assert choose_tiling(plain, (150, 200)).size == 150
    asked = choose_tiling(trained, (150, 200), 128, 0.3)
    assert (asked.size, asked.overlap, asked.told) == (128, 0.3, "--tiles")
    assert choose_tiling(plain, ()).size == 64  # short side 64: squares of that are left as they are
    assert load(file).image_size == (150, 200)
    sides = np.quantile(np.sqrt([w * h for of_image in BOXES for *_, w, h in of_image]), (0.25, 0.5, 0.75))
    assert load(file).object_sides == pytest.approx(tuple(sides), abs=0.01)  # the transforms leave them so
    tiling = Predictor(file, device="cpu").tiling()
    assert (tiling.size, tiling.sides) == (150, load(file).object_sides)
    assert (
        Predictor(file, device="cpu").tiling(96).sides == choose_tiling(trained, (), sides=sides).sides == ()
    )
    older = tmp_path / "older.pt"
    save(replace(load(file), image_size=(), object_sides=()), older)
    assert Predictor(older, device="cpu").tiling() == tiling  # as the training annotations say
    (run.parent / "images" / "train.json").rename(tmp_path / "train.json")
    try:
        assert "not scaled" in Predictor(older, device="cpu").tiling().told
    finally:
        (tmp_path / "train.json").rename(run.parent / "images" / "train.json")


def test_one_that_cannot_be_read_is_told_and_the_others_go_on(knowing: Predictor, run: Path) -> None:
    images = [run.parent / "images" / name for name in ("1.png", "none.png", "3.png")]
    told: list[Any] = []
    found = list(tiled_stream(knowing, images, lambda image, error: told.append((image, error)), size=96))
    assert [one.image_id for one in found] == [0, 2] and [image for image, _ in told] == [images[1]]
    with pytest.raises(DataError, match="there is no such image file"):
        list(tiled_stream(knowing, images, size=96))


def test_what_is_too_large_is_told(knowing: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_prediction, "MOST_PIXELS", 100)
    with pytest.raises(
        DataError, match="the image: 20 x 20 pixels, and masks in COCO's run-length code count"
    ):
        knowing.tiled(np.zeros((20, 20, 3), dtype=np.uint8))


def test_the_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictor, "load_model", lambda *_: Knows())
    image = str(run.parent / "images" / "1.png")
    command = [
        "predict",
        image,
        "--checkpoint",
        str(run),
        "--device",
        "cpu",
        "--set",
        "eval.cuda_graphs=false",
    ]
    assert main([*command, "--out", str(tmp_path / "one"), "--tiles", "96", "--overlap", "0.25"]) == 0
    assert "tiles of 96 px, which overlap by 25% (--tiles)" in capsys.readouterr().err
    records = json.loads((tmp_path / "one" / "predictions.json").read_text())
    assert sorted(r["bbox"] for r in records) == sorted(BOXES[0])
    assert (tmp_path / "one" / "1.png").exists()
    own = ["--set", "data.tiles.size=80", "--no-overlays"]  # of a model that was trained on them
    assert main([*command, "--out", str(tmp_path / "own"), *own]) == 0
    assert "tiles of 80 px, which overlap by 20% (data.tiles)" in capsys.readouterr().err
    monkeypatch.setattr(tiled_prediction, "HELD", 1000)
    assert (
        main([*command, "--out", str(tmp_path / "two"), "--tiles", "--write", "overlays,polygons,coco"]) == 0
    )
    assert "1.png: no pictures of 200 x 150 pixels are made; all else is" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["polygons", "predictions.json"]
    for wrong, said in (
        (["--tiles", "8"], "--tiles must be from 32 to 16384 pixels, got 8"),
        (["--overlap", "0.2"], "--overlap needs --tiles beside it"),
        (["--tiles", "--overlap", "0.7"], "--overlap must be in [0, 0.5], got 0.7"),
    ):
        assert main([*command, "--out", str(tmp_path / "no"), *wrong]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("most", "told"), [(2, True), (3, False)])
def test_a_cap_that_one_tile_reached_is_told(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    most: int,
    told: bool,
) -> None:
    """One tile alone shows both objects of the second image, and the others at most one."""
    monkeypatch.setattr(predictor, "load_model", lambda *_: Knows())
    settings = ["eval.cuda_graphs=false", f"model.roi.max_detections={most}"]
    command = ["predict", str(run.parent / "images" / "2.png"), "--checkpoint", str(run), "--device", "cpu"]
    command += ["--out", str(tmp_path), "--tiles", "96", "--no-overlays"]
    assert main([*command, *(part for key in settings for part in ("--set", key))]) == 0
    said = (
        "in 1 of 1 image the model found as many objects as it may (2), so others may be missing: take"
        " smaller --tiles, or raise it (--set model.roi.max_detections=20)"
    )
    assert (said in capsys.readouterr().err) == told
