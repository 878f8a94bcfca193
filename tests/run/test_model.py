"""The Python object does what the commands do, by the same functions, and tells mistakes as they do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from maskrcnn import Model
from maskrcnn.cli import main
from maskrcnn.data import CocoConfig
from maskrcnn.engine.checkpoint import load
from maskrcnn.errors import CheckpointError, ConfigError, DataError, UserError
from maskrcnn.recipe import load_recipe
from tests.engine.tiny import write_data, write_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with its data, and a run of it by the command."""
    place = tmp_path_factory.mktemp("model")
    recipe = write_recipe(place)
    assert main(["train", str(recipe), "--output", str(place / "run"), "--set", "solver.steps=2"]) == 0
    return place


def weights(run: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load(run / "checkpoints" / "last.pt").model.items()}


def test_training_is_the_commands_to_the_bit(place: Path, tmp_path: Path) -> None:
    model = Model(place / "tiny.yaml", solver={"steps": 2})
    assert model.checkpoint is None and model.classes == () and "untrained" in repr(model)
    done = model.train(output=tmp_path / "run")
    assert done.step == 2 and done.metrics
    assert weights(tmp_path / "run") == weights(place / "run")
    assert model.checkpoint == tmp_path / "run/checkpoints/best.pt" and model.classes == ("box", "disc")
    assert "2 classes" in repr(model)


def test_it_goes_on_from_the_weights_it_has(place: Path, tmp_path: Path) -> None:
    """No step of a rate of next to nothing changes them."""
    model = Model(place / "run")
    still = {"steps": 1, "schedule": {"warmup_steps": 0}, "optimizer": {"lr": 1e-30}}
    model.train(output=tmp_path / "run", solver=still)
    before = load(place / "run/checkpoints/best.pt").model
    assert all(t.equal(before[name]) for name, t in load(tmp_path / "run/checkpoints/last.pt").model.items())
    assert model.recipe.weights == place / "run/checkpoints/best.pt"
    model.train(output=tmp_path / "run", resume=True, solver={"steps": 2})
    assert load(tmp_path / "run/checkpoints/last.pt").step == 2


def test_evaluation_is_the_commands(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Model(place / "run")
    found = model.evaluate(
        results=tmp_path / "mine.json", pictures=tmp_path / "pictures", train={"pictures": 1}
    )
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1
    assert main(["eval", "--checkpoint", str(place / "run"), "--results", str(tmp_path / "its.json")]) == 0
    assert (tmp_path / "mine.json").read_text() == (tmp_path / "its.json").read_text()
    assert found["segm/AP"] == load(place / "run/checkpoints/best.pt").best["segm/AP"]
    assert "segm" in capsys.readouterr().out


def test_evaluation_on_other_data(place: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "other", val=2)
    fragment = "data: {train: {type: coco, images: '${HERE}', annotations: '${HERE}/val.json'}}"
    (tmp_path / "other/data.yaml").write_text(fragment)
    model, records = Model(place / "run"), tmp_path / "records.json"
    same = CocoConfig(images=tmp_path / "other", annotations=tmp_path / "other/val.json")
    figures = []
    for data, images in (
        (tmp_path / "other", None),
        (str(tmp_path / "other/data.yaml"), None),
        (tmp_path / "other/val.json", tmp_path / "other"),
        (same, None),
    ):
        figures.append(model.evaluate(data, images=images, results=records))
        assert {r["image_id"] for r in json.loads(records.read_text())} == {101, 102}
    assert all(f == figures[0] for f in figures)


def test_training_on_other_data_keeps_the_recipes_transforms(place: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "mine", names=("cat", "dog", "cow"))
    files = {
        k: f"{{type: coco, images: '${{HERE}}', annotations: '${{HERE}}/{k}.json'}}" for k in ("train", "val")
    }
    (tmp_path / "mine/data.yaml").write_text(f"data: {{train: {files['train']}, val: {files['val']}}}")
    model = Model(place / "tiny.yaml")
    model.train(tmp_path / "mine", output=tmp_path / "run", solver={"steps": 1})
    assert model.classes == ("cat", "dog", "cow")
    assert model.recipe.data.train_transforms == load_recipe(place / "tiny.yaml").data.train_transforms
    assert set(model.evaluate()) >= {"segm/AP"}


def test_prediction_is_the_commands(place: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("1", "2"):
        shutil.copy(place / f"images/{name}.png", images)
    command = ["predict", str(images), "--checkpoint", str(place / "run"), "--out", str(tmp_path / "out")]
    assert main([*command, "--score", "0", "--no-overlays"]) == 0
    model = Model(place / "run", device="cpu")
    found = model.predict(images, score=0.0)
    theirs = json.loads((tmp_path / "out/predictions.json").read_text())
    mine = [(i, r["bbox"], r["score"]) for i, p in enumerate(found, 1) for r in p.records]
    assert mine == [(r["image_id"], r["bbox"], r["score"]) for r in theirs] and mine
    assert [c for p in found for c in p.classes] == [r["category"] for r in theirs]
    masks = found[0].masks
    assert masks is not None and masks.shape == (len(found[0]), 64, 64)
    assert np.array_equal(
        found[0].boxes[:, 2:] - found[0].boxes[:, :2], [r["bbox"][2:] for r in found[0].records]
    )


def test_images_may_be_arrays_files_and_patterns(place: Path) -> None:
    model = Model(place / "run")
    file = place / "images/2.png"
    pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    kinds = (file, str(file), pixels, [pixels], (p for p in [str(file)]), str(place / "images/[2].png"))
    for images in kinds:
        (found,) = model.predict(images, score=0.0)
        (expected,) = model.predict(file, score=0.0)
        assert found.records and np.array_equal(found.boxes, expected.boxes)
        assert np.array_equal(found.image, pixels)
    each = model.predict_each([pixels, file])
    assert next(each).image is not None and len(list(each)) == 1


def test_overrides_reach_prediction(place: Path) -> None:
    few = Model(place / "run", model={"roi": {"max_detections": 1}})
    assert [len(p) for p in few.predict(place / "images/2.png", score=0.0)] == [1]
    dotted = Model(place / "run", **{"model.roi.max_detections": np.int64(2)})
    assert dotted.recipe.model.roi.max_detections == 2


def test_the_zoo_by_name() -> None:
    assert Model("zoo/demo", seed=3).recipe == load_recipe("zoo/demo", ["seed=3"])


def test_mistakes_are_sentences(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match="nothing/here: no run folder, checkpoint or config of that name"
    ):
        Model("nothing/here")
    with pytest.raises(ConfigError, match="zoo/dmo: no such file. Did you mean 'zoo/demo'"):
        Model("zoo/dmo")
    with pytest.raises(ConfigError, match="solver.stps: unknown key. Did you mean 'steps'"):
        Model("zoo/demo", solver={"stps": 3})
    with pytest.raises(CheckpointError, match="no best.pt or last.pt"):
        Model(tmp_path)
    untrained = Model("zoo/demo")
    with pytest.raises(UserError, match="zoo/demo: this recipe has no weights yet; train it first"):
        untrained.evaluate()
    with pytest.raises(UserError, match="has no weights yet"):
        untrained.predict("x.png")
    model = Model(place / "run")
    with pytest.raises(UserError, match=r"x.png: no such image"):
        model.predict("x.png")
    with pytest.raises(UserError, match=r"score must be in \[0, 1\], got 50"):
        model.predict(place / "images", score=50)
    with pytest.raises(DataError, match="an image is uint8"):
        model.predict(np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match="images goes with a COCO json alone"):
        model.evaluate(images="x")
    with pytest.raises(UserError, match="already holds a run"):
        model.train(output=place / "run")


def test_a_state_dict_is_told_what_to_do_and_that_works(place: Path, tmp_path: Path) -> None:
    state = load(place / "run/checkpoints/last.pt")
    torch.save(state.model, tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match="can start a training through the key 'weights'"):
        Model(tmp_path / "bare.pt")
    model = Model(place / "tiny.yaml", weights=tmp_path / "bare.pt", solver={"steps": 1})
    assert model.train(output=tmp_path / "run").step == 1


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, maskrcnn\n"
        "assert not {'torch', 'yaml', 'numpy'} & set(sys.modules), 'Model is imported when it is asked for'\n"
        "try:\n    maskrcnn.Modle\nexcept AttributeError as e:\n    assert 'Modle' in str(e)\n"
        "from maskrcnn import Model\n"
        "assert Model.__module__ == 'maskrcnn.run.model'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
