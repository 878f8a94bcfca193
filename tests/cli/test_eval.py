"""``maskrcnn eval``: the figures of a checkpoint, a run, or a file of predictions.

Covers ``maskrcnn/run/evaluation.py``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from maskrcnn.cli import main
from tests.engine.tiny import write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    path = write_recipe(folder)
    assert main(["train", str(path), "--output", str(folder / "run"), "--set", "solver.steps=2"]) == 0
    return folder / "run"


def test_a_checkpoint_alone_gives_the_figures_of_its_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    arguments = ["--results", str(results), "--pictures", str(tmp_path / "p"), "--set", "train.pictures=1"]
    assert main(["eval", "--checkpoint", str(run), *arguments]) == 0
    out = capsys.readouterr().out
    assert "best.pt: step 2, 3 images of" in out
    assert "AP50" in out
    assert json.loads(results.read_text()) == json.loads((run / "results.json").read_text())
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["101.png"]


def test_a_batch_of_images_and_a_config_give_the_same_detections(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    config = str(run.parent / "tiny.yaml")
    arguments = ["--checkpoint", str(run / "checkpoints" / "last.pt"), "--results", str(results)]
    assert main(["eval", config, *arguments, "--set", "eval.batch_size=3"]) == 0
    ours, theirs = json.loads(results.read_text()), json.loads((run / "results.json").read_text())
    assert [r["image_id"] for r in ours] == [r["image_id"] for r in theirs]
    assert [r["score"] for r in ours] == pytest.approx([r["score"] for r in theirs], abs=1e-4)


def test_another_model_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(run.parent / "tiny.yaml")
    assert main(["eval", config, "--checkpoint", str(run), "--set", "model.backbone.width=4"]) == 2
    assert (
        "does not fit this model: backbone.stem.weight is [8, 3, 4, 4], here [4, 3, 4, 4]"
        in capsys.readouterr().err
    )


def test_masks_alone_of_a_model_without_any_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(run.parent / "tiny.yaml")
    common = ["--set", "model.mask_head=null", "--set", "solver.steps=1"]
    folder = str(run.parent / "boxes")
    assert main(["train", config, "--output", folder, *common]) == 0
    assert "segm" not in capsys.readouterr().out.split("evaluating")[1]
    assert main(["eval", "--checkpoint", folder, "--set", "eval.iou_types=[segm]"]) == 2
    assert "the model has no mask head" in capsys.readouterr().err
    assert main(["eval", "--checkpoint", folder, "--set", "data.val=null"]) == 2
    assert "data.val is not set" in capsys.readouterr().err


def test_the_exit_status_says_whether_the_expected_figures_were_met(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = json.loads((run / "figures.json").read_text())["figures"]["bbox"]["AP50"]

    def status(*items: str) -> tuple[int, list[str]]:
        code = main(["eval", "--checkpoint", str(run), "--set", f"expect=[{', '.join(items)}]"])
        return code, [line for line in capsys.readouterr().out.splitlines() if "expected" in line]

    within = f"{{metric: bbox/AP50, value: {own + 0.002:.9f}, tolerance: 0.003, source: S. Omeone}}"
    beyond = f"{{metric: bbox/AP50, value: {own + 0.004:.9f}, tolerance: 0.003}}"
    absent = "{metric: keypoints/AP, value: 0.5}"
    assert status() == (0, [])
    code, lines = status(within)
    assert code == 0
    assert lines[0].endswith(f"expected bbox/AP50 {own + 0.002:.3f} - 0.003 (S. Omeone), here {own:.3f}: met")
    code, lines = status(within, beyond)
    assert code == 1
    assert [line.split(": ")[-1] for line in lines] == ["met", "NOT MET"]
    code, lines = status(absent)
    assert code == 1
    assert "keypoints/AP 0.500 - 0.005, here NOT COMPUTED" in lines[0]


def test_pictures_of_equal_names_in_folders_stay_apart(run: Path, tmp_path: Path) -> None:
    _, config = move_images(run, tmp_path, ["seq1/101.png", "seq2/101.png", "seq2/102.png"])
    arguments = ["--checkpoint", str(run), "--pictures", str(tmp_path / "p"), "--set", "train.pictures=4"]
    assert main(["eval", str(config), *arguments]) == 0
    made = sorted(p.name for p in (tmp_path / "p").iterdir())
    assert made == ["seq1__101.png", "seq2__101.png", "seq2__102.png"]
    again = tmp_path / "again"
    drawn = ["--set", "train.pictures=4", "--set", "solver.steps=1", "--output", str(again)]
    assert main(["train", str(config), *drawn]) == 0
    assert sorted(p.name for p in (again / "pictures").iterdir()) == made


def test_a_skipped_image_counts_for_nothing_and_the_next_is_drawn(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, config = move_images(run, tmp_path, ["101.png", "102.png", "103.png"])
    annotations = images / "val.json"
    content = json.loads(annotations.read_text())
    rest = {k: [r for r in v if 101 not in (r["id"], r.get("image_id"))] for k, v in content.items()}
    (tmp_path / "rest.json").write_text(json.dumps(rest))
    (images / "101.png").write_bytes(b"nothing")
    figures = []
    for name, more in (
        ("skipped", ["--set", "data.on_error=skip"]),
        ("rest", ["--set", f"data.val.annotations={tmp_path / 'rest.json'}"]),
    ):
        common = ["--set", "train.pictures=2", "--set", "solver.steps=1", "--output", str(tmp_path / name)]
        assert main(["train", str(config), *common, *more]) == 0
        found = json.loads((tmp_path / name / "figures.json").read_text())
        notes = " ".join(found["notes"])
        assert ("1 image that cannot be read, with 2 objects" in notes) == (name == "skipped")
        figures.append({k: v for k, v in found.items() if k not in ("annotations", "notes", "left_out")})
        assert sorted(p.name for p in (tmp_path / name / "pictures").iterdir()) == ["102.png", "103.png"]
        assert ("image 101: " in capsys.readouterr().err) == (name == "skipped")
    assert figures[0] == figures[1]
    arguments = ["--checkpoint", str(run), "--pictures", str(tmp_path / "p"), "--set", "train.pictures=1"]
    assert main(["eval", str(config), *arguments, "--set", "data.on_error=skip"]) == 0
    assert "image 101: " in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["102.png"]
    assert main(["eval", str(config), *arguments]) == 2
    assert "101.png: the image is damaged" in capsys.readouterr().err
    for image in images.glob("10*.png"):
        image.write_bytes(b"nothing")
    assert main(["eval", str(config), *arguments, "--set", "data.on_error=skip"]) == 2
    assert "not one of 3 images can be read" in capsys.readouterr().err


def move_images(run: Path, folder: Path, names: list[str]) -> tuple[Path, Path]:
    """A copy of the run's data, its evaluation images under other names; the folder and a config."""
    images = folder / "images"
    shutil.copytree(run.parent / "images", images)
    content = json.loads((images / "val.json").read_text())
    for record, name in zip(content["images"], names, strict=True):
        (images / name).parent.mkdir(exist_ok=True)
        shutil.copy(run.parent / "images" / record["file_name"], images / name)
        record["file_name"] = name
    (images / "val.json").write_text(json.dumps(content))
    config = folder / "tiny.yaml"
    config.write_text((run.parent / "tiny.yaml").read_text().replace(str(run.parent / "images"), str(images)))
    return images, config
