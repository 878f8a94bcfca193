from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn import files
from maskrcnn.errors import OutputError
from maskrcnn.files import (
    Appender,
    building_folder,
    clear_temporaries,
    create,
    locked,
    name_also,
    replacing,
    save_tensors,
    scratch,
    temporary_beside,
    write_json,
    write_text,
)


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


#: Writes one file over and over, large and whole: all "a", then all "b" ...
WRITER = """
import itertools, sys
from pathlib import Path
from maskrcnn.files import write_bytes
path = Path(sys.argv[1])
for letter in itertools.cycle((b"a", b"b")):
    write_bytes(path, letter * (8 << 20))
    print(flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for k in range(5):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.003 * k)  # somewhere in one of the next files
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        content = path.read_bytes()
        assert len(content) == 8 << 20 and set(content) in ({ord("a")}, {ord("b")})
        clear_temporaries(tmp_path)
        assert names(tmp_path) == ["x.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_writer_of_a_new_file_leaves_none(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom maskrcnn.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half')\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists() and len(clear_temporaries(tmp_path)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
def test_what_is_no_plain_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "told")
    assert os.read(reader, 10) == b"told"
    os.close(reader)
    assert pipe.is_fifo()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far")
    write_text(link, "there")
    assert link.is_symlink() and (tmp_path / "far").read_text() == "there"


def test_tensors_that_do_not_fit_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.pt"
    save_tensors(path, {"w": torch.arange(4.0)})
    assert torch.equal(torch.load(path, weights_only=True)["w"], torch.arange(4.0))
    before = path.read_bytes()
    monkeypatch.setattr(files._Told, "write", full_after(2, files._Told.write))
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"w": torch.zeros(1000)})
    assert path.read_bytes() == before and names(tmp_path) == ["t.pt"]


def full_after(writes: int, write: Any) -> Any:
    left = [writes]

    def little(self: Any, data: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            self.error = OSError(errno.ENOSPC, "No space left on device")
            raise self.error
        return int(write(self, data))

    return little


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_makes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda a, b: full())
    assert create(tmp_path / "a", "first")
    assert not create(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_takes_the_place_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda a, b: full())
    for text in ("one", "two"):
        write_text(tmp_path / text, text)
        name_also(tmp_path / text, "last")
        assert (tmp_path / "last").read_text() == text
    assert (tmp_path / "last").samefile(tmp_path / "two") == links
    assert names(tmp_path) == ["last", "one", "two"]


def test_a_scratch_file_is_gone_at_the_end(tmp_path: Path) -> None:
    def use() -> None:
        with scratch(tmp_path / "out") as file:
            file.write(b"rows")
            assert len(names(tmp_path)) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, wait=False) as handle:
        assert isinstance(handle, int)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    with locked(path, wait=True):
        assert path.read_bytes() == b""


def test_a_copy_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    files.copy_file(tmp_path / "a", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == b"1234"
    with pytest.raises(OutputError, match="nowhere: cannot be copied: No such file"):
        files.copy_file(tmp_path / "nowhere", tmp_path / "new" / "b")
    with pytest.raises(OutputError, match="c: could not be written"):
        files.copy_file(tmp_path / "a", tmp_path / "a" / "c")
    assert (tmp_path / "new" / "b").read_bytes() == b"1234" and len(list((tmp_path / "new").iterdir())) == 1


def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "a/deep"):
        with building_folder(tmp_path / name) as folder:
            (folder / "x").write_text("1")
            assert folder.parent == (tmp_path / name).parent and not (tmp_path / name / "x").exists()
        assert names(tmp_path / name) == ["x"]
    cut = building_folder(tmp_path / "cut")
    (cut.__enter__() / "x").write_text("1")
    assert not cut.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(OutputError, match="new: could not be written"), building_folder(tmp_path / "new"):
        pass
    assert names(tmp_path) == ["a", "empty", "new"] and names(tmp_path / "new") == ["x"]
