"""What cannot be written is told before it is needed."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from maskrcnn.engine.checkpoint import Checkpoint, save
from maskrcnn.errors import UserError
from maskrcnn.run.room import check_file, check_folder, check_room, checkpoint_bytes, in_words

Usage = namedtuple("Usage", "total used free")


def model() -> torch.nn.Module:
    net = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 300))
    net[2].requires_grad_(False)
    return net


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p),
        lambda p: torch.optim.AdamW(p, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, momentum=0.5),
    ],
)
def test_the_estimate_is_what_a_checkpoint_takes(make: object, tmp_path: Path) -> None:
    net = model()
    optimizer = make([p for p in net.parameters() if p.requires_grad])  # type: ignore[operator]
    estimate = checkpoint_bytes(net, optimizer)
    net(torch.ones(2, 300)).sum().backward()
    optimizer.step()
    save(Checkpoint(model=net.state_dict(), optimizer=optimizer.state_dict()), tmp_path / "a.pt")
    real = (tmp_path / "a.pt").stat().st_size
    assert 0.7 * real < estimate < 1.3 * real + 64 * 1024


def test_too_little_room_is_told_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 250_000_000))
    assert check_room(tmp_path / "new" / "run", 125_000_000, best=False) == 250_000_000
    with pytest.raises(
        UserError, match=r"about 125 MB, two of them and the best 375 MB, and 250 MB are free"
    ):
        check_room(tmp_path / "new" / "run", 125_000_000, best=True)
    (tmp_path / "checkpoints").mkdir()
    with (tmp_path / "checkpoints" / "step_1.pt").open("wb") as file:
        file.truncate(125_000_000)
    os.link(tmp_path / "checkpoints" / "step_1.pt", tmp_path / "checkpoints" / "last.pt")
    check_room(tmp_path, 125_000_000, best=True)
    with pytest.raises(UserError, match="make room"):  # a link is no second file
        check_room(tmp_path, 130_000_000, best=True)


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    check_file(tmp_path / "c" / "results.json", "--results")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/run: cannot be written: .*file is a file and no folder; choose .* --out$"
    ):
        check_folder(tmp_path / "file" / "run", "--out")
    with pytest.raises(
        UserError, match="cannot be written: it is a folder; choose another place with --results"
    ):
        check_file(tmp_path, "--results")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
def test_what_cannot_be_written_is_told() -> None:
    with pytest.raises(UserError, match=r"/proc/run: cannot be written: .* \(/proc\)"):
        check_folder(Path("/proc/run"))


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (64_000, "64 kB"), (1_234_000_000, "1.23 GB"), (5e15, "5e+03 TB")],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words
