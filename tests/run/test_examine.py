"""``maskrcnn doctor DATA|CONFIG``: what is printed, written and returned."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.recipe import DataConfig
from maskrcnn.run.data_argument import read_data_argument
from maskrcnn.run.examine import examine, read_sets
from maskrcnn.run.finding_pictures import finding_pictures
from tests.data.doctor.scenes import SIZE, content, octagon, scene, write, write_data
from tests.engine.tiny import write_recipe


def spoilt() -> dict[str, Any]:
    """A training set with several things wrong."""
    source = content()
    annotations = source["annotations"]
    annotations.append(annotations[0] | {"id": 1000})  # twice
    annotations[3]["bbox"] = [1, 1, 9, 9]  # not its mask's
    annotations[3]["area"] = 80
    annotations[5]["category_id"] = 77  # unknown
    annotations[7]["iscrowd"] = None  # read as meant
    return source


def kinds(path: Path, **options: Any) -> list[str]:
    return [doubt.kind for doubt in examine(read_data_argument(path), **options).doubts]


def test_sound_data_end_in_0_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    assert main(["doctor", str(path)]) == 0
    out = capsys.readouterr().out
    assert "data.train" in out and "6 images, 0 of them without objects; 12 objects, 0 crowd regions" in out
    assert "cup     1              6       6            3       3" in out
    assert "32 to 96" in out and "anchors for the images at their own size: {sizes: [[" in out
    assert out.endswith("sound: no findings\n")


def test_a_folder_a_json_and_a_config_are_data(tmp_path: Path) -> None:
    write_data(tmp_path)
    images = ["--images", str(tmp_path / "images")]
    for words in ([str(tmp_path)], [str(tmp_path / "val.json"), *images]):
        assert main(["doctor", "--quick", *words]) == 0


def test_findings_end_in_1_and_are_all_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, spoilt())
    assert main(["doctor", str(path), "--quick"]) == 1
    out = capsys.readouterr().out
    for said in (
        "faulty annotations (unknown category): 1 of 13 annotations (31); they are left out",
        "annotations that are read as they are meant: iscrowd null or text: 1 of 13 annotations (41)",
        "annotations that repeat another of their image: class, box and mask: 1 of 12",
        "boxes that disagree with their masks: 1 of 12 annotations (annotation 21 of image 2)",
    ):
        assert said in out
    assert out.endswith("4 findings\n")


def test_what_cannot_be_read_ends_in_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    (tmp_path / "val.json").write_text("{")
    assert main(["doctor", str(path)]) == 2
    assert "the json is broken" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "nowhere")]) == 2


def test_json_has_all_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = content()
    source["annotations"] += [a | {"id": a["id"] + 1000} for a in source["annotations"]]
    path = write_data(tmp_path, source)
    assert main(["doctor", str(path), "--json", "--quick"]) == 1
    found = json.loads(capsys.readouterr().out)
    (finding,) = found["findings"]
    assert finding["kind"] == "annotation twice" and len(finding["ids"]) == 5
    assert finding["every"] == [a["id"] for a in source["annotations"][12:]]
    assert finding["cost"] and finding["advice"]
    assert found["tables"][0]["rows"][0] == ["cup", "1", "12", "6", "3", "3"]


def test_out_has_findings_and_pictures(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data", spoilt())
    cv2.imwrite(str(tmp_path / "data" / "images" / "102.png"), scene(4) // 2 * 2 + 1)
    out = tmp_path / "out"
    assert main(["doctor", str(path), "--out", str(out)]) == 1
    found = json.loads((out / "findings.json").read_text())["findings"]
    pictures = {finding["kind"]: finding["picture"] for finding in found if "picture" in finding}
    assert {"annotation twice", "box disagrees with mask"} <= set(pictures)
    assert ("val near train" in pictures) == (find_spec("imagehash") is not None)
    for name in pictures.values():
        picture = cv2.imread(str(out / name))
        assert picture is not None and picture.shape[1] > 2 * SIZE[1]


def test_a_picture_shows_the_annotation_alone_beside_all(tmp_path: Path) -> None:
    found = examine(read_data_argument(write_data(tmp_path, spoilt())))
    drawn = dict(finding_pictures(found.doubts, found.data.values()))
    (place,) = (n for n, d in enumerate(found.doubts) if d.kind == "box disagrees with mask")
    picture = drawn[place]
    half = picture.shape[1] // 2
    assert not np.array_equal(picture[:, : half - 8], picture[:, half + 8 :])


def test_missing_images_are_told_without_opening_any(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    (tmp_path / "images" / "002.png").unlink()
    assert kinds(path) == ["missing image"]


def test_classes_that_differ_are_a_finding(tmp_path: Path) -> None:
    val = content(3, 101)
    val["categories"][0]["name"] = "mug"
    assert kinds(write_data(tmp_path, val=val)) == ["classes differ"]


def test_what_a_config_makes_of_data_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = content()
    for k in range(30):
        box = {"bbox": [12 + k, 40, 20, 20], "segmentation": [octagon(22 + k, 50, 10)], "area": 283}
        source["annotations"].append(source["annotations"][0] | box | {"id": 1000 + k})
    images, annotations = write(tmp_path / "data", source)
    words = ["doctor", str(write_recipe(tmp_path)), "--json", "--quick"]
    for name in ("train", "val"):
        words += ["--set", f"data.{name}.images={images}", "--set", f"data.{name}.annotations={annotations}"]
    assert main(words) == 1
    found = json.loads(capsys.readouterr().out)
    told = {finding["kind"] for finding in found["findings"]}
    assert {"more objects than detections", "no anchors near", "val repeats train"} <= told
    assert any("anchors reach" in fact for fact in found["facts"])
    assert any("multiply-adds" in fact for fact in found["facts"])


def test_a_measured_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", str(write_recipe(tmp_path)), "--quick", "--measure"])
    assert "(measured)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json"], "--json is about data: name them, as maskrcnn doctor DATA --json"),
        (["DATA", "--measure"], "--measure makes steps of a training"),
        (["DATA", "--copy"], "--copy goes with --fix DIR"),
    ],
)
def test_arguments_that_do_not_go_together(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_data(tmp_path))
    assert main(["doctor", *(path if word == "DATA" else word for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_reading_is_quiet_and_leaves_the_logger_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config: DataConfig = read_data_argument(write_data(tmp_path, spoilt()))
    before = logging.getLogger("maskrcnn").level
    data, doubts = read_sets(config)
    assert set(data) == {"data.train", "data.val"} and doubts == []
    assert caplog.text == "" and logging.getLogger("maskrcnn").level == before
