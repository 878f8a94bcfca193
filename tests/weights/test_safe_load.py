"""Files of torch.save are read without running what is in them; what cannot be read is told in a sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.safe_load import first_line, safe_load


def test_tensors_and_plain_containers_come_back(tmp_path: Path) -> None:
    path = tmp_path / "plain.pt"
    torch.save({"model": {"w": torch.arange(3.0)}, "step": 5, "names": ["a", ("b", 1.5)]}, path)
    found = safe_load(path)
    assert torch.equal(found["model"]["w"], torch.arange(3.0))
    assert found["step"] == 5 and found["names"] == ["a", ("b", 1.5)]


class Runs:
    """What its unpickling would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was-run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Runs()}, "code.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="never loaded since they could run code"):
        safe_load(Path("code.pt"))
    assert not Path("was-run").exists()


def test_a_flipped_bit_and_a_cut_are_told(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"w": torch.ones(1000)}, path)
    whole = path.read_bytes()
    at = whole.index(torch.ones(1000).numpy().tobytes()) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match="wrong checksum"):
        safe_load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        safe_load(path)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in (
        ("", "is a folder"),
        ("none.pt", "no such checkpoint file"),
        ("pipe", "a named pipe"),
    ):
        with pytest.raises(CheckpointError, match=f"{re.escape(str(tmp_path / name))}: .*{sentence}"):
            safe_load(tmp_path / name)


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 999))) == 200
