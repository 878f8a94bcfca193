from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.errors import DataError
from maskrcnn.run import Predictor

#: The tiny recipe's own backbone, which a process of its own must be told to import.
TRUST = ["--set", "plugins=[tests.engine.tiny_backbone]"]


def test_folders_and_patterns_are_predicted(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tiny_run.parent / "images"
    out = tmp_path / "out"
    inputs = [str(images / "10*.png"), str(images / "1.png")]
    assert main(["predict", "--checkpoint", str(tiny_run), "--score", "0", "--out", str(out), *inputs]) == 0
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
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    inputs = [str(bad), str(tiny_run.parent / "images" / "101.png")]
    assert main(["predict", "--checkpoint", str(tiny_run), "--out", str(tmp_path / "out"), *inputs]) == 2
    assert (tmp_path / "out" / "101.png").exists()
    assert (tmp_path / "out" / "predictions.json").exists()
    err = capsys.readouterr().err
    assert "bad.png" in err
    assert "1 of 2 images could not be read" in err


def test_scores_below_the_threshold_are_left_out(tiny_run: Path) -> None:
    image = tiny_run.parent / "images" / "101.png"
    everything = Predictor(tiny_run, device="cpu", score=0.0)(image)
    assert len(everything) > 1
    middle = float(everything.scores[1])
    some = Predictor(tiny_run, device="cpu", score=middle)(image)
    assert some.scores.tolist() == [s for s in everything.scores.tolist() if s >= middle]
    nothing = Predictor(tiny_run, device="cpu", score=1.0)(image)
    assert (len(nothing), nothing.boxes.shape, nothing.draw().shape[2]) == (0, (0, 4), 3)


def test_arrays_of_any_size_give_masks_in_their_own_frame(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu", score=0.0)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    found = predictor(pixels)
    assert found.masks is not None
    assert found.masks.shape == (len(found), 50, 90)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [90, 50, 90, 50]).all()
    assert len(predictor(pixels[:, :, 0])) >= 0
    with pytest.raises(DataError, match=r"float64 \(50, 90, 3\)"):
        predictor(pixels / 255.0)


def test_a_file_and_its_pixels_give_the_same(tiny_run: Path) -> None:
    path = tiny_run.parent / "images" / "102.png"
    predictor = Predictor(tiny_run, device="cpu", score=0.0)
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert predictor(path).records == predictor(pixels).records


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_names_of_any_bytes_are_predicted_and_told(tiny_run: Path, tmp_path: Path) -> None:
    pixels = (tiny_run.parent / "images" / "101.png").read_bytes()
    names = [b"caf\xe9.png", b"-rf.png", b"line\nbreak.png", b"x" * 251 + b".png", b"sub/caf\xe9.png"]
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in names:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(pixels)
    out = tmp_path / os.fsdecode(b"out\xff")
    command = ["predict", "--checkpoint", str(tiny_run), "--out", str(out), "--score", "0", "--recursive"]
    # In a process of its own: OpenCV, given such a name, ends it with a segmentation fault.
    done = subprocess.run(
        [sys.executable, "-m", "maskrcnn", *command, *TRUST, str(tmp_path / "in")], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert rf"{tmp_path}/in/caf\xe9.png: 10 instances" in lines
    assert rf"{tmp_path}/in/line\nbreak.png: 10 instances" in lines
    assert lines[-1] == rf"5 images, 50 instances: {tmp_path}/out\xff"
    pictures = sorted(p.name for p in out.iterdir() if p.suffix == ".png")
    assert pictures[:2] + pictures[3:] == ["_-rf.png", "caf_.png", "sub__caf_.png", pictures[4]]
    text = (out / "predictions.json").read_bytes()
    assert b"\\ud" not in text  # half surrogates, which other readers refuse
    found = {(r["file_name"], r.get("file_name_hex")) for r in json.loads(text)}
    spelt = {os.fsencode(a) if b is None else bytes.fromhex(b) for a, b in found}
    assert spelt == {os.fsencode(tmp_path / "in") + b"/" + name for name in names}


def test_pictures_of_equal_names_in_folders_stay_apart(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("seq1/101.png", "seq2/101.png", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_run.parent / "images" / "101.png", tmp_path / "in" / name)
    common = ["predict", "--checkpoint", str(tiny_run), "--out", str(tmp_path / "out"), str(tmp_path / "in")]
    assert main(common) == 2
    assert "2 folders: seq1, seq2 (take them with --recursive)" in capsys.readouterr().err
    assert main([*common, "--recursive"]) == 0
    assert "passed over 1 file: notes.txt" in capsys.readouterr().err
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert made == ["predictions.json", "seq1__101.png", "seq2__101.png"]
