"""From a trained RPN to a file of proposals, and from there to Fast R-CNN."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.data.proposal_file import ProposalFile
from maskrcnn.engine.checkpoint import load
from maskrcnn.errors import DataError
from maskrcnn.run import Predictor
from tests.engine.tiny import write_recipe

COMMON = ["--set", "solver.steps=2", "--set", "model.rpn.post_nms_test=12"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and the proposals of its RPN for both data sets."""
    folder = tmp_path_factory.mktemp("tiny")
    config = str(write_recipe(folder))
    run = str(folder / "run")
    assert main(["train", config, "--output", run, *COMMON, "--set", "data.val=null"]) == 0
    for split in ("train", "val"):
        file = str(folder / f"{split}.npz")
        command = ["proposals", config, "--checkpoint", run, "--output", file, "--split", split, *COMMON]
        assert main(command) == 0
    return folder


def fast_rcnn(folder: Path) -> list[str]:
    files = [f"data.{split}.proposals={folder / split}.npz" for split in ("train", "val")]
    return [part for item in ("model.rpn=null", *files) for part in ("--set", item)]


def test_every_image_gets_proposals_in_its_own_frame(folder: Path) -> None:
    # Image 1 has no ground truth and is there too; the network saw the images at another size.
    found = ProposalFile(folder / "train.npz")
    assert found.image_ids.tolist() == [1, 2, 3, 4, 5]
    for image_id in found.image_ids.tolist():
        boxes = found.of(image_id, 64, 64, 100)
        assert 0 < len(boxes) <= 12
    assert float(found.rows[:, :4].max()) == 64.0
    assert ((found.rows[:, 4] > 0) & (found.rows[:, 4] < 1)).all()
    assert not list(folder.glob(".*"))


def test_frame_and_limit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At half the network size the boxes still fill the original frame."""
    file = tmp_path / "new" / "few.npz"
    half = ["--set", "data.eval_transforms=[{type: resize, height: 32, width: 48}]"]
    command = ["proposals", "--checkpoint", str(folder / "run"), "--output", str(file), "--limit", "2"]
    assert main([*command, *COMMON, *half, "--split", "train"]) == 0
    out = capsys.readouterr().out
    assert "last.pt: step 2, 2 images of" in out
    assert f"proposals written to {file}" in out
    assert "AR@100 " in out and "AR@1000 " in out
    found = ProposalFile(file)
    assert found.image_ids.tolist() == [1, 2]
    assert found.rows[:, [0, 2]].max() == found.rows[:, [1, 3]].max() == 64.0


def test_fast_rcnn_trains_on_them_and_is_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = str(folder / "tiny.yaml"), tmp_path / "fast"
    fast = fast_rcnn(folder)
    assert main(["train", config, "--output", str(run), "--set", "solver.steps=2", *fast]) == 0
    out = capsys.readouterr().out
    assert "rpn" not in out.split("step 2/2")[1].splitlines()[0]
    assert "AP50" in out
    assert not any(name.startswith("rpn.") for name in load(run / "checkpoints" / "last.pt").model)
    assert main(["eval", "--checkpoint", str(run)]) == 0
    assert main(["proposals", "--checkpoint", str(run), "--output", str(tmp_path / "x.npz")]) == 2
    assert "this model has no RPN" in capsys.readouterr().err
    assert main(["predict", "--checkpoint", str(run), str(folder / "images" / "2.png")]) == 2
    assert "needs proposals with each image" in capsys.readouterr().err

    predictor = Predictor(run, score=0.0)
    image = cv2.imread(str(folder / "images" / "2.png"))
    boxes = np.array([[10.0, 10, 30, 40], [0, 0, 64, 64], [70, 70, 80, 80]])  # the last lies outside
    found = predictor(image, boxes)
    assert len(found) > 0
    assert found.boxes.max() <= 64
    with pytest.raises(DataError, match="needs proposals"):
        predictor(image)
    with pytest.raises(DataError, match=r"float \[P, 4\] xyxy, got \[3, 5\]"):
        predictor(image, np.zeros((3, 5)))
    with pytest.raises(DataError, match="makes its own proposals"):
        Predictor(folder / "run")(image, boxes)


def test_wrong_combinations_are_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(folder / "tiny.yaml")
    val = [*fast_rcnn(folder)[:4], "--set", "data.val.proposals=null"]
    for changes, sentence in (
        (["--set", "model.rpn=null"], "data.train.proposals is not set, but the model has no RPN"),
        (val, "data.val.proposals is not set, but the model has no RPN"),
        (fast_rcnn(folder)[2:], "data.train.proposals is set, but the model makes its own"),
        ([*fast_rcnn(folder), "--set", "data.train.proposals=none.npz"], "none.npz: the proposals cannot be"),
    ):
        assert main(["train", config, "--output", str(folder / "never"), *changes]) == 2
        assert sentence in capsys.readouterr().err
    assert not (folder / "never").exists()
    command = ["proposals", "--checkpoint", str(folder / "run"), "--output", str(folder / "x.npz")]
    assert main([*command, "--limit", "0"]) == 2
    assert "--limit must be at least 1" in capsys.readouterr().err
    assert main([*command]) == 2  # trained without data.val
    assert "take --split train" in capsys.readouterr().err
    (folder / "file").write_text("")
    command = ["proposals", "--checkpoint", str(folder / "run"), "--output", str(folder / "file" / "x.npz")]
    assert main([*command, "--split", "train"]) == 2
    assert "x.npz: cannot be written: " in capsys.readouterr().err
