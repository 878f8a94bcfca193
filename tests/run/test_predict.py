"""`maskrcnn predict` as a whole: every format, videos, pages, and runs that go on after a kill."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from maskrcnn.cli import main
from maskrcnn.cli import predict as command
from maskrcnn.data import video
from maskrcnn.picture_files import writing_video
from maskrcnn.run import Predictor, prediction_files
from maskrcnn.run.predict import Counts
from maskrcnn.run.prediction_journal import JOURNAL
from maskrcnn.structures import rle
from tests.engine.tiny import write_recipe

ALL = ",".join(prediction_files.WRITES)
#: The tiny recipe's own backbone, which a process of its own must be told to import.
TRUST = ["--set", "plugins=[tests.engine.tiny_backbone]"]
#: Predicts, and dies as by kill -9 when so many images are in the journal.
KILLED = """
import os, signal, sys
from maskrcnn.cli import main
from maskrcnn.run.prediction_journal import Journal
add, left = Journal.add, [int(sys.argv[1])]
def add_and_die(journal, done):
    add(journal, done)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = add_and_die
main(sys.argv[2:])
"""


def predict(tiny_run: Path, out: Path, *words: object, status: int = 0) -> None:
    common = ["predict", "--checkpoint", str(tiny_run), "--score", "0", "--out", str(out), "--device", "cpu"]
    assert main([*common, *map(str, words)]) == status


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def everything(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, of the eight images of the tiny data set."""
    out = tmp_path_factory.mktemp("everything")
    predict(tiny_run, out, tiny_run.parent / "images", "--write", ALL)
    return out


def test_the_options_name_what_can_be_written() -> None:
    assert set(command.WRITES) == set(prediction_files.WRITES)
    assert command.DEFAULT_WRITES == "overlays,coco"


def test_every_format_has_the_same_instances(tiny_run: Path, everything: Path) -> None:
    image = tiny_run.parent / "images" / "101.png"
    found = Predictor(tiny_run, device="cpu", score=0.0)(image)
    assert found.rles is not None
    records = json.loads((everything / "predictions.json").read_text())
    mine = [record for record in records if record["file_name"] == str(image)]
    assert [r["segmentation"] for r in mine] == found.rles
    with (everything / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    assert [float(row["score"]) for row in rows] == [record["score"] for record in records]
    assert [int(row["area"]) for row in rows] == [rle.area(r["segmentation"]) for r in records]
    for kind in ("labels/101.png", "labels-tiff/101.tiff"):
        labels = cv2.imread(str(everything / kind), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint16 and np.array_equal(labels, found.to_label_image())
    geojson = json.loads((everything / "polygons/101.geojson").read_text())
    assert geojson == json.loads(json.dumps(found.to_geojson() | {"features": geojson["features"]}))
    assert [f["geometry"] for f in geojson["features"]] == [
        json.loads(json.dumps(f["geometry"])) for f in found.to_geojson()["features"]
    ]
    crops = sorted((everything / "crops/101").iterdir())
    assert [p.name for p in crops][:2] == [f"{k:04d}_{found.classes[k - 1]}.png" for k in (1, 2)]
    for path, crop in zip(crops, found.crops(), strict=True):
        assert np.array_equal(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), crop)
    tasks = json.loads((everything / "labelstudio.json").read_text())
    named = {task["data"]["image"]: len(task["predictions"][0]["result"]) for task in tasks}
    assert named["/data/local-files/?d=101.png"] == len(found) and len(tasks) == 8
    labelme = json.loads((everything / "labelme/101.json").read_text())
    assert (everything / "labelme" / labelme["imagePath"]).resolve() == image.resolve()


@pytest.mark.parametrize("kind", ["cvat", "labelme", "yolo", "labels"])
def test_what_annotation_tools_read_is_imported_again(
    kind: str, tiny_run: Path, everything: Path, tmp_path: Path
) -> None:
    """By our own importers of these formats: the very masks, but where one hides another."""
    images = tiny_run.parent / "images"
    places = {"cvat": "cvat.xml", "labelme": "labelme", "yolo": "yolo", "labels": "labels"}
    source = tmp_path / "in"
    source.mkdir()
    if kind == "cvat":
        (source / "cvat.xml").write_bytes((everything / "cvat.xml").read_bytes())
    else:
        for path in (everything / places[kind]).rglob("*"):
            if path.is_file():
                target = source / path.relative_to(everything / places[kind])
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
    out = tmp_path / "out"
    if kind == "yolo":
        for path in images.glob("*.png"):
            (source / path.name).write_bytes(path.read_bytes())
    status = main(
        ["import", str(source), "--images", str(images if kind != "yolo" else source), "--out", str(out)]
    )
    assert status == 0
    (path,) = out.glob("*.json")
    content = json.loads(path.read_text())
    by_id = {image["id"]: image for image in content["images"]}
    names = {c["id"]: c["name"] for c in content["categories"]}
    read: dict[str, list[tuple[str, str]]] = {}
    for record in content["annotations"]:
        image = by_id[record["image_id"]]
        code = record["segmentation"]
        if isinstance(code, list):
            parts = [np.array(part) for part in code]
            code = rle.from_polygons(parts, image["height"], image["width"])
        known = (names[record["category_id"]], rle.as_text(code)["counts"])
        read.setdefault(Path(image["file_name"]).name, []).append(known)
    predictor = Predictor(tiny_run, device="cpu", score=0.0)
    for path in sorted(images.glob("*.png")):
        found = predictor(path)
        assert found.rles is not None
        codes = found.rles
        if kind == "labels":
            labels = found.to_label_image()
            shown = [(labels == k).astype(np.uint8) for k in range(1, len(found) + 1)]
            codes = [rle.as_text(rle.encode(mask)) for mask in shown]
        expected = sorted(
            (name, code["counts"]) for name, code in zip(found.classes, codes, strict=True) if rle.area(code)
        )
        assert sorted(read.get(path.name, [])) == expected, path.name


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_a_killed_run_goes_on_to_the_files_of_an_uninterrupted_one(
    tiny_run: Path,
    everything: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path  # as deep as the other, for paths from labelme's jsons to their images
    words = ["predict", "--checkpoint", str(tiny_run), "--score", "0", "--device", "cpu", "--out", str(out)]
    words += [str(tiny_run.parent / "images"), "--write", ALL, *TRUST]
    done = subprocess.run([sys.executable, "-c", KILLED, "3", *words], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (out / JOURNAL).exists() and not (out / "predictions.json").exists()
    seen: list[str] = []
    prepare = Predictor._prepare

    def counted(predictor: Predictor, image: Any, *rest: Any) -> Any:
        seen.append(Path(image).name)
        return prepare(predictor, image, *rest)

    monkeypatch.setattr(Predictor, "_prepare", counted)
    (out / ".maskrcnn-0123456789abcdef.tmp").touch()  # what a kill in the middle of a file leaves
    capsys.readouterr()
    predict(tiny_run, out, tiny_run.parent / "images", "--write", ALL, "--resume", *TRUST)
    assert "3 images are done" in capsys.readouterr().out
    assert len(seen) == 5
    assert files_of(out) == files_of(everything)


def test_going_on_needs_the_same_options_and_says_what_it_does(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "in" / "b.png"
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")
    pixels = (tiny_run.parent / "images" / "101.png").read_bytes()
    (tmp_path / "in" / "a.png").write_bytes(pixels)
    out = tmp_path / "out"
    predict(tiny_run, out, broken.parent, "--resume", status=2)
    told = capsys.readouterr()
    assert "no unfinished run there" in told.out
    assert "1 of 2 images could not be read" in told.err and "--resume takes those alone" in told.err
    assert (
        main(["predict", "--checkpoint", str(tiny_run), "--out", str(out), "--resume", str(broken.parent)])
        == 2
    )
    assert "begun with other options (--score)" in capsys.readouterr().err
    broken.write_bytes(pixels)  # mended, as was advised
    predict(tiny_run, out, broken.parent, "--resume")
    told = capsys.readouterr()
    assert "1 image is done" in told.out and "2 images, 20 instances" in told.out and "a.png:" not in told.out
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "predictions.json"]
    ids = {(r["file_name"], r["image_id"]) for r in json.loads((out / "predictions.json").read_text())}
    assert ids == {(str(tmp_path / "in" / "a.png"), 1), (str(broken), 2)}


def test_an_interrupt_says_how_to_go_on(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction = Predictor._prediction

    def interrupted(predictor: Predictor, prepared: Any, found: Any) -> Any:
        if prepared.sample.info.image_id == 2:
            raise KeyboardInterrupt
        return prediction(predictor, prepared, found)

    monkeypatch.setattr(Predictor, "_prediction", interrupted)
    predict(tiny_run, tmp_path / "out", tiny_run.parent / "images", status=130)
    assert "2 images are done; the same command with --resume goes on" in capsys.readouterr().out
    monkeypatch.undo()
    predict(tiny_run, tmp_path / "out", tiny_run.parent / "images", "--resume")
    predict(tiny_run, tmp_path / "whole", tiny_run.parent / "images")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def write_video(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    with writing_video(path, 12.0, 64, 64) as add:
        for _ in range(count):
            add(np.repeat(np.repeat(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), 8, 0), 8, 1))


def test_a_video_has_an_overlay_video_and_records_of_its_frames(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 4)
    out = tmp_path / "out"
    words = (
        path,
        tiny_run.parent / "images" / "101.png",
        "--write",
        "overlays,coco,csv,labels",
        "--batch-size",
        3,
    )
    predict(tiny_run, out, *words)
    told = capsys.readouterr()
    assert "4 frames" in told.out and "the overlay has no sound" in told.err
    with video.opened_video(out / "clip.mp4") as found:
        assert (found.rate, found.count) == (12.0, 4)
    records = json.loads((out / "predictions.json").read_text())
    # The image has the first id, whatever comes first on the command line.
    assert {(r["image_id"], r.get("frame")) for r in records} == {(1, None), (2, 0), (3, 1), (4, 2), (5, 3)}
    assert sorted(p.name for p in (out / "labels").iterdir())[:3] == [
        "101.png",
        "classes.csv",
        "clip_000000.png",
    ]
    assert not (out / "clip_000000.png").exists()
    with (out / "predictions.csv").open(newline="") as file:
        assert {row["frame"] for row in csv.DictReader(file)} == {"", "0", "1", "2", "3"}


def test_a_camera_that_fails_half_way_is_told_and_a_video_begun_anew(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeCamera:
        """Five frames are promised, three come."""

        def __init__(self, _: str) -> None:
            self.place = 0

        def isOpened(self) -> bool:
            return True

        def get(self, key: int) -> float:
            return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: 5.0}[key]

        def read(self) -> tuple[bool, Any]:
            self.place += 1
            return self.place <= 3, np.full((64, 64, 3), 60 * self.place, dtype=np.uint8)

        def release(self) -> None:
            self.place = 99

    path = tmp_path / "clip.mp4"
    path.write_bytes(b"its camera is not this file")
    monkeypatch.setattr(video, "cv2", SimpleNamespace(**{**vars(cv2), "VideoCapture": FakeCamera}))
    predict(tiny_run, tmp_path / "out", path, "--write", "coco")
    assert "3 frames of the 5 that it says it has could be read" in capsys.readouterr().err
    whole = files_of(tmp_path / "out")

    prediction = Predictor._prediction

    def interrupted(predictor: Predictor, prepared: Any, found: Any) -> Any:
        if prepared.sample.info.image_id == 2:
            raise KeyboardInterrupt
        return prediction(predictor, prepared, found)

    monkeypatch.setattr(Predictor, "_prediction", interrupted)
    predict(tiny_run, tmp_path / "cut", path, "--write", "coco", status=130)
    monkeypatch.setattr(Predictor, "_prediction", prediction)
    predict(tiny_run, tmp_path / "cut", path, "--write", "coco", "--resume")
    assert files_of(tmp_path / "cut") == whole


def test_pages_of_a_tiff_are_images_with_names(tiny_run: Path, tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pages, photometric="rgb")
    predict(tiny_run, tmp_path / "out", path)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["predictions.json", "stack_0.png", "stack_1.png", "stack_2.png"]
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    predictor = Predictor(tiny_run, device="cpu", score=0.0)
    for page, pixels in enumerate(pages):
        mine = [r for r in records if r["file_name"] == f"{path}[{page}]"]
        assert [r["segmentation"] for r in mine] == predictor(pixels).rles


def test_wishes_that_cannot_be_are_told(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tiny_run.parent / "images" / "101.png"
    for words, said in (
        (["--write", "overlay"], "--write overlay: there is no such format"),
        (["--write", "overlays", "--no-overlays"], "names nothing"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
    ):
        predict(tiny_run, tmp_path / "out", image, *words, status=2)
        assert said in capsys.readouterr().err


def test_a_model_of_boxes_alone_writes_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    keys = ("solver.steps=1", "data.val=null", "model.mask_head=null")
    changes = [part for key in keys for part in ("--set", key)]
    assert main(["train", str(path), "--output", str(tmp_path / "run"), *changes]) == 0
    image, out = tmp_path / "images" / "101.png", tmp_path / "out"
    predict(tmp_path / "run", out, image, "--write", ALL, status=2)
    assert "--write labels,labels-tiff: label images are made of masks" in capsys.readouterr().err
    boxes = [name for name in prediction_files.WRITES if name not in prediction_files.NEED_MASKS]
    predict(tmp_path / "run", out, image, "--write", ",".join(boxes))
    records = json.loads((out / "predictions.json").read_text())
    assert len(records) == 10 and "segmentation" not in records[0]
    assert (out / "cvat.xml").read_text().count("<box ") == 10
    task = json.loads((out / "labelstudio.json").read_text())[0]
    assert [r["type"] for r in task["predictions"][0]["result"]] == ["rectanglelabels"] * 10
    lines = (out / "yolo/labels/101.txt").read_text().splitlines()
    x, y, w, h = (64 * float(v) for v in lines[0].split()[1:])
    assert np.allclose([x - w / 2, y - h / 2, w, h], records[0]["bbox"], atol=1e-4)
    shapes = json.loads((out / "labelme/101.json").read_text())["shapes"]
    assert {shape["shape_type"] for shape in shapes} == {"rectangle"}


def test_doubts_at_the_end_are_one_sentence() -> None:
    assert Counts(images=3, instances=5).doubts(100) == ""
    said = Counts(images=3, instances=50, capped=2, small=4).doubts(100)
    assert "in 2 of 3 images" in said and "model.roi.max_detections=1000" in said
    assert "4 of 50 instances were below 8 px" in said


def test_the_advice_on_the_cap_helps(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tiny_run.parent / "images" / "101.png"
    predict(tiny_run, tmp_path / "out", image)
    err = capsys.readouterr().err
    assert "in 1 of 1 image the model found as many objects as it may (10)" in err
    advice = err.split("(--set ")[1].split(")")[0]
    predict(tiny_run, tmp_path / "more", image, "--set", advice)
    told = capsys.readouterr()
    assert "model.roi.max_detections" not in told.err and "1 image, 10 instances" not in told.out
