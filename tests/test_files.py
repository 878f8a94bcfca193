from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from maskrcnn import files
from maskrcnn.errors import OutputError
from maskrcnn.files import Appender, clear_temporaries, replacing, temporary_beside, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_written_whole_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": 1}, sync=True)
    write_json(path, {"x": 2})
    assert path.read_text() == '{"x": 2}\n'
    assert names(path.parent) == ["b.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_name_as_long_as_names_may_be_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_what_ends_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "old")

    def stop() -> None:
        with replacing(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"the disk is full \(\d+\.\d MiB free\); make room there"),
        (errno.EDQUOT, "the disk quota is used up; make room there"),
        (errno.EFBIG, "larger than files may be here"),
        (errno.EACCES, "Permission denied; check the folder and its permissions"),
    ],
)
def test_why_a_file_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match=rf"{tmp_path}/a: could not be written: .*{words}"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_records_that_do_not_fit_wait_and_no_half_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    file = Appender(path)
    file.append(b"one\n")
    write, room = os.write, [2]

    def little(handle: int, data: Any) -> int:
        if not room[0]:
            full()
        part = bytes(data)[: room[0]]
        room[0] -= len(part)
        return write(handle, part)

    monkeypatch.setattr(files.os, "write", little)
    for record in (b"two\n", b"three\n"):
        with pytest.raises(OSError, match="No space left"):
            file.append(record)
        assert path.read_bytes() == b"one\n"
    room[0] = 1000
    file.append(b"four\n")
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"
    file.close()


def test_a_growing_file_that_was_removed_is_told(tmp_path: Path) -> None:
    file = Appender(tmp_path / "log")
    file.append(b"one\n")
    (tmp_path / "log").unlink()
    with pytest.raises(FileNotFoundError, match="removed while it was written"):
        file.append(b"two\n")
    assert names(tmp_path) == []


def test_leftovers_go_by_our_own_names_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    ours = [
        temporary_beside(tmp_path / "run.json"),
        temporary_beside(tmp_path / "checkpoints" / "last.pt"),
        temporary_beside(tmp_path / "pictures" / "a.png"),
        tmp_path / "run.json.partial",
        tmp_path / "checkpoints" / ".last.pt.new",
        tmp_path / "checkpoints" / ".step_00000300.pt.k3_x9a0b",
    ]
    others = [
        tmp_path / "run.json",
        tmp_path / ".maskrcnn-mine.tmp",
        tmp_path / "notes.partial",
        tmp_path / "checkpoints" / ".step_00000300.pt.backup",
        temporary_beside(tmp_path / "pictures" / "deep" / "a.png"),
    ]
    for path in ours + others:
        path.write_bytes(b"x")
    link = temporary_beside(tmp_path / "link")
    link.symlink_to(others[0])
    assert sorted(clear_temporaries(tmp_path)) == sorted(ours)
    assert not any(p.exists() for p in ours)
    assert all(p.exists() for p in (*others, link))
