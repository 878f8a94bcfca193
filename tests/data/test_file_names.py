"""File names that are no plain text, and names that lead out of the folder of images."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from maskrcnn.data import CocoConfig, CocoDataset
from maskrcnn.data.file_names import leaves_folder, refuse_outside, shown
from maskrcnn.data.images import read_image
from maskrcnn.errors import DataError
from tests.data.files import SIZE, coco, write_coco

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")


def named(folder: Path, name: bytes) -> tuple[Path, Path]:
    """A data set of two images, the second of which is called ``name``."""
    images, path = write_coco(folder, coco(2))
    target = images / os.fsdecode(name)
    target.parent.mkdir(exist_ok=True)
    (images / "1.png").rename(target)
    content = coco(2)
    content["images"][1]["file_name"] = os.fsdecode(name)
    path.write_text(json.dumps(content))
    return images, path


@on_linux
@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.png", b"\xff\xfe/\x80.png", b"a\nb.png", b"-rf.png", b"\x1b[31m.png", "ü".encode() * 120],
)
def test_images_of_any_name_are_read(tmp_path: Path, name: bytes) -> None:
    sample = CocoDataset(*named(tmp_path, name)).load(1)
    assert sample.image.shape[:2] == SIZE
    assert os.fsencode(sample.info.file_name) == name


@on_linux
def test_a_missing_file_of_such_a_name_is_told_in_plain_text(tmp_path: Path) -> None:
    images, path = named(tmp_path, b"caf\xe9\n.png")
    for file in images.iterdir():
        file.unlink()
    with pytest.raises(DataError) as caught:
        CocoDataset(images, path).load(1)
    assert str(caught.value) == rf"image 20: {images}/caf\xe9\n.png: there is no such image file"


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png"])
def test_names_that_no_file_can_have_are_told(tmp_path: Path, name: str) -> None:
    content = coco(2)
    content["images"][1]["file_name"] = name
    images, path = write_coco(tmp_path, coco(2))
    path.write_text(json.dumps(content))
    dataset = CocoDataset(images, path)
    assert dataset.image_ids.tolist() == [10]
    assert "image 20" in dataset.report.summary()
    with pytest.raises(DataError, match="image 20: .*'file_name'") as caught:
        CocoDataset(images, path, on_error="raise")
    assert str(caught.value).isprintable()
    with pytest.raises(DataError, match="no file can have this name") as caught:
        read_image(images / name)
    assert str(caught.value).isprintable()


def test_shown_names_are_one_printable_line() -> None:
    assert shown("photos/Ünï 1.png") == "photos/Ünï 1.png"
    assert shown("a\udce9\n\x1b\u202e\ud800.png") == r"a\xe9\n\x1b\u202e\ud800.png"


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("a.png", False),
        ("a/b/c.png", False),
        ("a/../b.png", False),
        ("./a.png", False),
        ("..a/b..png", False),
        ("/a.png", True),
        ("../a.png", True),
        ("a/../../b.png", True),
        ("a/./../..//b/../c.png", True),
    ],
)
def test_what_leaves_the_folder(name: str, outside: bool) -> None:
    assert leaves_folder(name) == outside


@pytest.mark.parametrize("absolute", [False, True])
def test_files_outside_are_read_only_where_the_data_set_says_so(tmp_path: Path, absolute: bool) -> None:
    images, path = write_coco(tmp_path, coco(2))
    (images / "1.png").rename(tmp_path / "secret.png")
    content = coco(2)
    content["images"][1]["file_name"] = str(tmp_path / "secret.png") if absolute else "../secret.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image 20 \(.*secret.png\).*set allow_outside: true"):
        CocoConfig(images=images, annotations=path, on_error="skip").build(True)
    allowed = CocoConfig(images=images, annotations=path, allow_outside=True).build(True)
    assert allowed.load(1).image.shape[:2] == SIZE


def test_many_names_outside_are_counted() -> None:
    with pytest.raises(DataError, match=r"image 5 \(/5\), and 995 more") as caught:
        refuse_outside([(i, f"/{i}") for i in range(1, 1001)], Path("a.json"), Path("images"))
    assert len(str(caught.value)) < 500


def test_links_in_the_folder_are_followed(tmp_path: Path) -> None:
    images, path = write_coco(tmp_path, coco(2))
    (images / "1.png").rename(tmp_path / "elsewhere.png")
    (images / "1.png").symlink_to(tmp_path / "elsewhere.png")
    assert CocoDataset(images, path).load(1).image.shape[:2] == SIZE
