from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.cli import complain


def test_processes_of_one_run_say_a_sentence_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for attempt in (0, 1):
        for rank in (0, 1):
            folder = tmp_path / f"attempt_{attempt}" / str(rank)
            folder.mkdir(parents=True)
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
            complain("error: the same")
            complain(f"error: of rank {rank} alone")
    lines = capsys.readouterr().err.splitlines()
    assert lines == 2 * [
        "maskrcnn: error: the same",
        "maskrcnn: error: of rank 0 alone",
        "maskrcnn: error: of rank 1 alone",
    ]


def test_alone_or_without_a_common_folder_all_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, file in (
        ("1", tmp_path / "a" / "0" / "error.json"),
        ("2", tmp_path / "no" / "0" / "error.json"),
    ):
        monkeypatch.setenv("WORLD_SIZE", size)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        complain("x")
        complain("x")
    assert capsys.readouterr().err == 4 * "maskrcnn: x\n"
