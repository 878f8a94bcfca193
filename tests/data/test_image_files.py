"""Where image files are, and which are not there."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from typing import BinaryIO

import pytest

from maskrcnn.data.doctor.page_count import count_pages
from maskrcnn.data.image_files import WAITS, image_path, longest_gap, missing_files, no_file, read_file
from maskrcnn.data.image_header import read_header
from maskrcnn.data.images import read_image
from maskrcnn.errors import DataError


@pytest.mark.parametrize("count", [3, 500])  # asked for one by one, and by the folder's listing
def test_missing_files_are_found_in_any_number_of_folders(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"f{k % 2}" / f"{k}.png" for k in range(2 * count)]
    for folder in ("f0", "f1"):
        (tmp_path / folder).mkdir()
    for path in paths:
        path.touch()
    assert missing_files(paths) == []
    paths[0].unlink()
    paths[-1].unlink()
    paths[-1].mkdir()  # a folder is no image
    paths[1].unlink()
    paths[1].symlink_to("nowhere")
    paths[2].unlink()
    paths[2].symlink_to(paths[3])
    assert missing_files(paths) == [0, 1, 2 * count - 1]
    assert missing_files([tmp_path / "none" / path.name for path in paths]) == list(range(2 * count))


def test_names_that_no_system_takes_are_missing(tmp_path: Path) -> None:
    assert missing_files([tmp_path / ("x" * 5000), tmp_path / "a\0b", tmp_path / "\ud800"]) == [0, 1, 2]


@pytest.mark.skipif(os.sep != "/", reason="Windows reads backslashes itself")
def test_backslashes_mean_folders_where_that_is_plain(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("secret.png", "images/a.png", "images/sub/a.png", "images/own\\name.png"):
        (tmp_path / name).touch()
    images = tmp_path / "images"
    assert image_path(images, "sub\\a.png") == images / "sub" / "a.png"
    assert image_path(images, ".\\sub\\a.png") == images / "sub" / "a.png"
    assert image_path(images, "own\\name.png") == images / "own\\name.png"  # there is a file of the very name
    for name in ("x" * 300 + "\\a.png", "sub\\" + "x" * 300):
        assert image_path(images, name) == images / name
    for name in ("..\\secret.png", "sub\\..\\..\\secret.png", "C:\\a.png", "\\a.png", "none\\a.png"):
        assert image_path(images, name) == images / name


@pytest.mark.parametrize(
    ("missing", "count", "gap"),
    [([], 5, 0), ([1, 2, 4], 6, 2), ([0, 5], 6, 2), ([0, 1, 2], 3, 3), ([0], 1, 1)],
)
def test_the_longest_gap_goes_round(missing: list[int], count: int, gap: int) -> None:
    assert longest_gap(missing, count) == gap


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "file.png").touch()
    names = ("folder.png", "link.png", "file.png", "none.png", "a\0b.png")
    assert [no_file(tmp_path / name) for name in names] == [
        "a folder",
        "a link that leads nowhere",
        "",
        "",
        "",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_named_pipes_sockets_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for path, kind in (
            (tmp_path / "pipe.png", "a named pipe"),
            (tmp_path / "socket.png", "a socket"),
            (Path("/dev/zero"), "a device"),
        ):
            with pytest.raises(DataError, match=f"{path}: cannot be read: it is {kind} and no image file"):
                read_image(path)
            assert read_header(path) is None
    assert count_pages(tmp_path / "pipe.png") == 1
    assert missing_files([tmp_path / "pipe.png"]) == [0]


class Drive:
    """Opens images; the first calls fail."""

    def __init__(self, number: int, times: int) -> None:
        self.number, self.left, self.slept = number, times, list[float]()

    def open(self, path: Path) -> BinaryIO:
        if self.left:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number), str(path))
        return path.open("rb")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_drive_that_does_not_answer_is_asked_again(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"image")
    for times, waits in ((2, [0.5, 2.0]), (4, [0.5, 2.0, 8.0])):
        drive = Drive(number, times)
        monkeypatch.setattr("maskrcnn.data.image_files.open_image", drive.open)
        monkeypatch.setattr("maskrcnn.data.image_files.time.sleep", drive.slept.append)
        if times > len(WAITS):
            with pytest.raises(DataError, match=re.escape(f"{image}: cannot be read: {os.strerror(number)}")):
                read_image(image)
        else:
            assert read_file(image) == b"image"
        assert drive.slept == waits


def test_what_asking_again_does_not_mend_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("maskrcnn.data.image_files.time.sleep", slept.append)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(OSError):
            read_file(path)
    assert slept == []
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "unmounted" / "a.png")
    assert slept == [*WAITS]
