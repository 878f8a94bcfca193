from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.engine.checkpoint import Checkpoint, load, load_weights, save
from maskrcnn.engine.checkpoint_folder import CheckpointFolder, find_checkpoint
from maskrcnn.errors import CheckpointError
from maskrcnn.weights.unpickle import load_pickle


def make(step: int = 3) -> Checkpoint:
    return Checkpoint(
        model={"w": torch.arange(2000.0)},
        optimizer={
            "state": {0: {"momentum_buffer": torch.ones(2)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        step=step,
        evaluated=2,
        best={"segm/AP": 0.25, "step": 2},
        config="seed: 1\n",
        category_ids=(2, 5),
        category_names=("a", "b"),
        versions={"torch": "x"},
    )


def test_round_trip(tmp_path: Path) -> None:
    save(make(), tmp_path / "c.pt")
    back = load(tmp_path / "c.pt")
    assert back.model["w"].equal(torch.arange(2000.0))
    assert back.optimizer["state"][0]["momentum_buffer"].equal(torch.ones(2))
    for name in (
        "step",
        "evaluated",
        "best",
        "config",
        "category_ids",
        "category_names",
        "versions",
        "scaler",
    ):
        assert getattr(back, name) == getattr(make(), name)


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    path = tmp_path / "c.pt"
    save(make(step=1), path)

    def fail(content: Any, file: Any) -> None:
        file.write(b"half a check")
        raise failure

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match="could not be written"):
        save(make(step=2), path)
    monkeypatch.undo()
    assert load(path).step == 1
    assert os.listdir(tmp_path) == ["c.pt"]  # noqa: PTH208


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("reader", [load, load_weights])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, inside: bool, reader: Any) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "ran"
    if inside:
        torch.save({"format": "maskrcnn-checkpoint", "format_version": 1, "model": {"w": Evil(trace)}}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(trace), protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.pt.*never loaded"):
        reader(path)
    assert not trace.exists()


def test_every_cut_and_other_damage_is_a_sentence(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    save(make(), whole)
    data = whole.read_bytes()
    path = tmp_path / "cut.pt"
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"cut\.pt: "):
            load(path)
    middle = bytearray(data)
    where = data.index(torch.arange(2000.0).numpy().tobytes()[400:440])
    middle[where] ^= 0xFF
    path.write_bytes(bytes(middle))
    with pytest.raises(CheckpointError, match=r"cut\.pt: damaged"):
        load(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError, match="no"):
        load(path)


def test_foreign_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="bare state dict"):
        load(path)
    assert load_weights(path).model["a.weight"].item() == 1.0
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="neither"):
        load_weights(path)
    torch.save({"format": "maskrcnn-checkpoint", "format_version": 99}, path)
    with pytest.raises(CheckpointError, match="version 99"):
        load(path)
    ours = {"format": "maskrcnn-checkpoint", "format_version": 1}
    torch.save({**ours, "optimizer": {}}, path)
    with pytest.raises(CheckpointError, match="incomplete checkpoint, without a model"):
        load(path)
    torch.save({**ours, "model": {}, "step": "many"}, path)
    with pytest.raises(CheckpointError, match="damaged, its step is of type str"):
        load(path)
    with pytest.raises(CheckpointError, match="no such"):
        load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="folder"):
        load(tmp_path)


def test_a_file_may_lack_any_part_but_the_model_and_hold_others(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    ours = {"format": "maskrcnn-checkpoint", "format_version": 1, "model": {"w": torch.ones(1)}}
    torch.save({**ours, "best": None, "ema": {"w": torch.zeros(1)}, "more": 1}, path)
    found = load(path)
    assert found == Checkpoint(model=found.model, more=found.more)
    assert found.model["w"].item() == 1.0
    assert found.more == {"ema": {"w": torch.zeros(1)}, "more": 1}
    save(found, path)
    assert load(path).more == found.more


def test_the_folder_keeps_the_newest_and_names_last_and_best(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints", keep=2)
    assert folder.latest() is None
    for step in (1, 2, 3, 10):
        folder.save(make(step), best=step == 2)
    names = sorted(p.name for p in folder.folder.iterdir())
    assert names == ["best.pt", "last.pt", "step_00000003.pt", "step_00000010.pt"]
    assert load(folder.folder / "best.pt").step == 2
    assert load(folder.folder / "last.pt").step == 10
    assert find_checkpoint(tmp_path / "run") == folder.folder / "best.pt"
    found = folder.latest()
    assert found is not None
    assert (found[0].step, found[2]) == (10, [])


def test_without_hard_links_the_names_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(a: Any, b: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    CheckpointFolder(tmp_path).save(make(4))
    assert load(tmp_path / "last.pt").step == 4


def test_a_cut_last_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(make(1))
    newest = folder.save(make(2))
    newest.write_bytes(newest.read_bytes()[:500])
    found = folder.latest()
    assert found is not None
    assert found[0].step == 1
    assert [("step_00000002.pt" in text) for text in found[2]] == [True]
    for path in tmp_path.glob("step_*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint of this run can be read"):
        folder.latest()


def test_no_checkpoint_in_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no best\.pt or last\.pt"):
        find_checkpoint(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("read", [load, load_weights, load_pickle])
def test_a_named_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match=r"pipe.pt: is a named pipe; name a checkpoint file"):
        read(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match="/dev/zero: is a device"):
        read(Path("/dev/zero"))
