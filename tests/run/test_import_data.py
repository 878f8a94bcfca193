"""``maskrcnn import``: the format is found out, and what is there already is not written over unsaid.

Covers ``maskrcnn/cli/import_data.py``, ``maskrcnn/data/formats/sources.py`` and
``maskrcnn/run/export_data.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.formats.exchange import IMPORTERS
from maskrcnn.data.formats.sources import LabelSource, common_folder, image_size, split_of
from maskrcnn.errors import DataError, OutputError, UserError
from maskrcnn.run.import_data import find_format
from tests.data.files import with_exif
from tests.data.formats.labels import datasets, imported, picture, plane, ring
from tests.data.formats.test_coco_dialects import content, write
from tests.data.formats.test_cvat import write as write_cvat
from tests.data.formats.test_labelme import SQUARE, shape
from tests.data.formats.test_labelme import write as write_labelme
from tests.data.formats.test_yolo import NAMES
from tests.data.formats.test_yolo import write as write_yolo
from tests.rules.pages import ROOT, blocks


def make(kind: str, folder: Path) -> Path:
    """A small data set of the format."""
    if kind == "coco":
        picture(folder / "a.png")
        write(folder / "x.json", content(["a.png"], ["cat"]))
    elif kind == "cvat":
        write_cvat(folder, '<polygon label="cat" points="5,5;20,5;20,20"/>')
    elif kind == "labelme":
        write_labelme(folder, [shape(SQUARE)])
    elif kind == "yolo":
        write_yolo(folder, NAMES + "train: train/images\n")
    else:
        root = folder / "a1" if kind == "dsb2018" else folder
        picture(root / "images" / "a.png")
        plane(root / "masks" / ("0.png" if kind == "dsb2018" else "a.png"), ring() * 255)
    return folder


KINDS = ["coco", "cvat", "dsb2018", "labelme", "masks", "yolo"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_found_out_and_told(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(kind, tmp_path / "in")
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "mine")]) == 0
    told = capsys.readouterr().out
    assert (
        f"(format {kind})" in told and f"{tmp_path}/mine/data.yaml: take it up in a config by base:" in told
    )
    assert len(datasets(tmp_path / "mine")["train"]) == 1
    assert find_format(LabelSource(tmp_path / "in"), kind)[0] == kind


def test_of_two_formats_one_must_be_named(tmp_path: Path) -> None:
    make("labelme", make("cvat", tmp_path / "in"))
    with pytest.raises(
        UserError, match=r"may be cvat \(1 XML file of CVAT's\) or labelme \(1 json of labelme's\); say"
    ) as told:
        find_format(LabelSource(tmp_path / "in"))
    wanted = str(told.value).rpartition(" ")[2]
    assert imported(tmp_path / "in", tmp_path / "mine", format=wanted).format == wanted


@pytest.mark.parametrize(
    ("name", "images", "wanted", "words"),
    [
        ("nowhere", None, None, "nowhere: there is no such file or folder of labels"),
        ("in", "nowhere", None, "nowhere: there is no such folder of images"),
        (
            "empty",
            None,
            None,
            "empty: nothing in it is of a format that is known; looked for coco: .*; yolo: ",
        ),
        (
            "in",
            None,
            "yolo",
            "in: nothing in it is of a format that is known; looked for yolo: YOLO's label files",
        ),
        ("x.zip", None, None, "x.zip: is an archive; unpack it, and name the folder"),
    ],
)
def test_where_nothing_is_found(
    tmp_path: Path, name: str, images: str | None, wanted: str | None, words: str
) -> None:
    make("coco", tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=words):
        find_format(LabelSource(tmp_path / name, None if images is None else tmp_path / images), wanted)


def test_what_is_there_is_not_written_over_unsaid(tmp_path: Path) -> None:
    make("coco", tmp_path / "in")
    imported(tmp_path / "in", tmp_path / "mine")
    before = (tmp_path / "mine" / "train.json").read_text()
    with pytest.raises(
        UserError, match=r"holds data\.yaml, train\.json already; name another, or write.*--overwrite"
    ):
        imported(tmp_path / "in", tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is no folder; name another"):
        imported(tmp_path / "in", tmp_path / "file")
    write(tmp_path / "in" / "x.json", content(["a.png"], ["dog"]))
    found = imported(tmp_path / "in", tmp_path / "mine", overwrite=True)
    assert "data.yaml, train.json replaced" in found.notes[0]
    assert (tmp_path / "mine" / "train.json").read_text() != before
    (tmp_path / "hollow").mkdir()
    imported(tmp_path / "in", tmp_path / "hollow")


def test_images_stay_or_are_copied(tmp_path: Path) -> None:
    make("yolo", tmp_path / "in")
    imported(tmp_path / "in", tmp_path / "mine")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["data.yaml", "train.json"]
    imported(tmp_path / "in", tmp_path / "copied", copy=True)
    (tmp_path / "in").rename(tmp_path / "gone")
    (tmp_path / "copied").rename(tmp_path / "moved")  # it holds all that it needs
    path = datasets(tmp_path / "moved")["train"].path(0)
    assert path == tmp_path / "moved" / "images" / "train" / "train.png"
    with pytest.raises(DataError, match="there is no such folder of images; set `images`"):
        datasets(tmp_path / "mine")


def test_names_that_yaml_and_our_own_words_could_misread(tmp_path: Path) -> None:
    folder = make("coco", tmp_path / "a: ${HOME} #1")
    imported(folder, tmp_path / "mine")
    assert datasets(tmp_path / "mine")["train"].images == folder


def test_an_image_that_cannot_be_read_and_one_that_is_turned(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    for name in ("a", "b"):
        write_labelme(tmp_path / "in", [shape(SQUARE)], name, imageHeight=None)
    jpeg = cv2.imencode(".jpg", np.zeros((60, 40, 3), np.uint8))[1].tobytes()
    (tmp_path / "in" / "a.png").write_bytes(with_exif(jpeg, 6))
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    found = imported(tmp_path / "in", tmp_path / "mine")
    assert "1 unreadable image" in "\n".join(found.notes)
    assert datasets(tmp_path / "mine")["train"].sizes.tolist() == [[40, 60]]


def test_nothing_is_written_where_nothing_is_found(tmp_path: Path) -> None:
    make("labelme", tmp_path / "in")
    (tmp_path / "in" / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    with pytest.raises(DataError, match="there are no objects in it"):
        imported(tmp_path / "in", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    make("coco", tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"train\.json: could not be written"):
        imported(tmp_path / "in", tmp_path / "file" / "mine")


def test_links_to_folders_are_not_followed_round(tmp_path: Path) -> None:
    make("coco", tmp_path / "in")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert imported(tmp_path / "in", tmp_path / "mine").images == {"train": 1}


def test_sizes_folders_and_splits(tmp_path: Path) -> None:
    assert image_size(plane(tmp_path / "a.tif", ring())) == (40, 60)
    with pytest.raises(DataError):
        image_size(tmp_path / "no.tif")
    paths = [tmp_path / "x" / "a.png", tmp_path / "x" / "y" / "b.png"]
    assert common_folder(paths) == tmp_path / "x" and common_folder(paths, tmp_path) == tmp_path
    assert common_folder(paths, tmp_path / "other") == tmp_path / "x"
    assert [split_of(Path(p)) for p in ("valid/x/a", "test_1.png", "Test/a")] == ["val", "train", "test"]
    assert split_of(Path("instances_val2017.json"), file_too=True) == "val"
    with pytest.raises(FaultError, match="no name that a file can have"):
        LabelSource(tmp_path).find_image("a\0b", tmp_path)


def test_a_format_of_ones_own_as_the_page_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = [b for b in blocks(ROOT / "docs" / "data.md", "python") if "text_boxes" in b]
    (tmp_path / "own_format_of_a_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(IMPORTERS, "_entries", dict(IMPORTERS._entries))
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.box").write_text("cat 1 2 10 12\ndog 3 4 -5 6\n")
    (tmp_path / "in" / "b.box").write_text("cat 1 2 10 12\n")
    words = ["import", "in", "--plugins", "own_format_of_a_test", "--out", "mine"]
    assert main(words) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "1 zero-area box" in told and "1 missing image" in told and "(format text_boxes)" in told
    assert datasets(tmp_path / "mine")["train"].ground_truth().boxes.tolist() == [[1, 2, 10, 12]]


def test_a_format_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format yollo: there is no such format. Did you mean 'yolo'"):
        find_format(LabelSource(tmp_path), "yollo")
