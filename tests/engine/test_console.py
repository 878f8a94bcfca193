from __future__ import annotations

import errno
from pathlib import Path

import pytest

from maskrcnn.engine.console import Unwritten
from maskrcnn.errors import DataError, OutputError


def fail() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failure_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    lines: list[str] = []
    unwritten = Unwritten(lines.append)
    path = tmp_path / "a"
    assert [unwritten.attempt(path, fail) for _ in range(3)] == [False] * 3
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: could not be written: the disk is full (")
    with pytest.raises(OutputError, match=f"not written: {path} "):
        unwritten.raise_if_any()
    assert unwritten.attempt(path, lambda: None)
    assert lines[1:] == [f"{path}: is written again"]
    unwritten.raise_if_any()


def test_long_lists_are_short(tmp_path: Path) -> None:
    lines: list[str] = []
    unwritten = Unwritten(lines.append)
    for i in range(100):
        unwritten.attempt(Path(f"{i}.png"), fail)
    assert len(lines) == 5
    assert unwritten.names() == "0.png, 1.png, 2.png, 3.png, 4.png, 94 more and 99.png"


def test_other_errors_pass() -> None:
    def wrong() -> None:
        raise DataError("not about writing")

    with pytest.raises(DataError):
        Unwritten(print).attempt(Path("a"), wrong)
