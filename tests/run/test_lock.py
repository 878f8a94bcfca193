from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.errors import OutputError, UserError
from maskrcnn.run import lock as module
from maskrcnn.run.lock import NAME, Holder, RunLock, here


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life in hundredths of seconds."""
    monkeypatch.setattr(module, "BEAT", 0.02)
    monkeypatch.setattr(module, "SILENCE", 0.5)
    monkeypatch.setattr(module, "_LOOK", 0.01)


def take(folder: Path) -> tuple[RunLock, list[str]]:
    lines: list[str] = []
    lock = RunLock(folder)
    lock.take(lines.append)
    return lock, lines


def leave(folder: Path, holder: Holder, age: float = 0.0) -> Path:
    """A lock file of another process, with its last sign of life ``age`` seconds ago."""
    path = folder / NAME
    path.write_text(json.dumps(asdict(holder)))
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def gone() -> int:
    """Id of a process that ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_held_until_given_back(tmp_path: Path) -> None:
    lock, lines = take(tmp_path)
    assert lines == []
    kept = json.loads((tmp_path / NAME).read_text())
    assert kept["pid"] == os.getpid()
    with pytest.raises(
        UserError, match=rf"being trained already, by process {os.getpid()} on .*, since 2\d\d\d-"
    ):
        take(tmp_path)
    lock.check()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    take(tmp_path)[0].release()


def test_folders_that_nothing_was_written_in_go_again(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    take(run)[0].release()
    assert list(tmp_path.iterdir()) == []
    lock = take(run)[0]
    (run / "config.yaml").write_text("x")
    lock.release()
    assert [p.name for p in run.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("change", [{"pid": None}, {"born": 1}])
def test_a_dead_processs_lock_is_taken_over_also_where_its_id_is_used_again(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    if change == {"pid": None}:
        change = {"pid": gone()}
    holder = replace(here(), **change)
    leave(tmp_path, holder)
    lock, lines = take(tmp_path)
    assert lines == [f"taking over the run folder from {holder}: that process runs no more"]
    assert json.loads((tmp_path / NAME).read_text())["born"] == here().born
    lock.release()


def test_another_machines_living_process_keeps_its_lock(tmp_path: Path) -> None:
    other = replace(here(), host="far", place="another machine", pid=7)
    path = leave(tmp_path, other)
    end = threading.Event()

    def live() -> None:
        while not end.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(
            UserError, match="process 7 on far, since .*last sign of life.*If it surely runs no more, delete"
        ):
            take(tmp_path)
    finally:
        end.set()
        thread.join()
    assert json.loads(path.read_text())["pid"] == 7


@pytest.mark.parametrize("age", [0.0, 3600.0])
def test_another_machines_silent_process_loses_it(tmp_path: Path, age: float) -> None:
    leave(tmp_path, replace(here(), host="far", place="another machine", pid=7), age)
    lock, lines = take(tmp_path)
    assert any("waiting up to" in line for line in lines) == (age == 0.0)
    assert lines[-1].startswith("taking over the run folder from process 7 on far")
    assert lines[-1].endswith("gives no sign of life any more")
    lock.release()


def test_following_the_advice_and_deleting_the_file_works(tmp_path: Path) -> None:
    path = leave(tmp_path, replace(here(), host="far", place="another machine", pid=7))
    path.unlink()
    take(tmp_path)[0].release()


def test_a_lock_cut_short_is_nobodys_after_a_while(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b'{"host": "\xff')
    lock, lines = take(tmp_path)
    assert lines[-1].startswith("taking over the run folder from another process")
    lock.release()


def test_one_that_was_taken_over_notices_and_leaves_the_others_alone(tmp_path: Path) -> None:
    lock, _ = take(tmp_path)
    path = leave(tmp_path, replace(here(), host="far", place="another machine", pid=7))
    with pytest.raises(UserError, match="process 7 on far, since .* took this run over"):
        lock.check()
    lock.release()
    assert path.exists()


def test_a_lock_file_that_was_deleted_alone_is_put_back(tmp_path: Path) -> None:
    lock, _ = take(tmp_path)
    (tmp_path / NAME).unlink()
    lock.check()
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_told_and_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lock, _ = take(run)
    run.rename(tmp_path / "other")
    with pytest.raises(OutputError, match="removed or renamed while the run was writing in it"):
        lock.check()
    lock.release()
    assert not run.exists()


def test_it_gives_signs_of_life(tmp_path: Path) -> None:
    lock, _ = take(tmp_path)
    path = tmp_path / NAME
    os.utime(path, (1.0, 1.0))
    for _ in range(1000):
        if path.stat().st_mtime != 1.0:
            break
        threading.Event().wait(0.01)
    assert path.stat().st_mtime != 1.0
    lock.release()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="could not be written: Not a directory"):
        take(tmp_path / "file" / "run")


def test_a_sign_of_life_in_the_future_is_waited_for_no_longer(tmp_path: Path) -> None:
    leave(tmp_path, replace(here(), host="far", place="another machine", pid=7), age=-86400.0)
    lock, lines = take(tmp_path)
    assert lines[-1].endswith("gives no sign of life any more")
    lock.release()


@pytest.mark.parametrize(
    "text",
    [
        "",
        pytest.param("[" * 100_000, id="deep"),
        "[]",
        pytest.param(json.dumps({**asdict(here()), "pid": None, "born": None}), id="of no process"),
        '{"host": 1}',
        "null",
    ],
)
def test_a_lock_that_says_nothing_is_nobodys(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    os.utime(tmp_path / NAME, (1.0, 1.0))
    lock, lines = take(tmp_path)
    assert lines == [
        "taking over the run folder from another process: that process gives no sign of life any more"
    ]
    lock.release()
