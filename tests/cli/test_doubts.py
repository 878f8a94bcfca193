"""A training and an evaluation tell what is doubtful about their data, before anything else."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from maskrcnn.cli import main
from tests.engine.tiny import write_recipe


def test_doubts_are_told_at_the_start_of_training_and_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    run = tmp_path / "run"
    command = ["train", str(recipe), "--output", str(run), "--set", "solver.steps=1"]
    command += ["--set", "model.rpn.anchors.sizes=[[12],[16],[24],[32],[64]]"]
    assert main(command) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    of_the_data = [line for line in told if "solver." not in line and "AP is 0" not in line]
    assert not of_the_data, "sound data raise no doubt"
    for split in ("train", "val"):
        path = tmp_path / "images" / f"{split}.json"
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x, 64 - y - h, w, h]
        path.write_text(json.dumps(content))
    assert main([*command[:3], str(tmp_path / "again"), *command[4:]]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "y measured from the lower edge" in line]
    assert len(told) == 2
    assert told[0].startswith(f"warning: {tmp_path / 'images' / 'train.json'}: boxes that disagree")
    assert main(["eval", "--checkpoint", str(run)]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "y measured from the lower edge" in line]
    assert len(told) == 1 and "val.json" in told[0]


def test_every_image_is_opened_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    path = tmp_path / "images" / "3.png"
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    command = ["train", str(recipe), "--set", "solver.steps=1", "--set"]
    for choice, told in (("quick", 0), ("full", 1)):
        assert main([*command, f"train.check_data={choice}", "--output", str(tmp_path / choice)]) == 0
        err = capsys.readouterr().err
        assert err.count("gray images among colour ones: 1 of 5 files (image 3: 3.png)") == told
