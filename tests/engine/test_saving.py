from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from maskrcnn.engine.checkpoint import Checkpoint, WriteError, load
from maskrcnn.engine.checkpoint_folder import CheckpointFolder
from maskrcnn.engine.faults import NonFiniteError
from maskrcnn.errors import UserError
from maskrcnn.structures import Batch
from tests.engine.line import Line, Lines, batch, batches, trainer


class Full(CheckpointFolder):
    """A disk that is full from one step to another, and tells that it has room or not."""

    def __init__(self, folder: Path, first: int, last: int) -> None:
        super().__init__(folder, keep=9)
        self.full = range(first, last + 1)
        self.tried: list[int] = []

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> Path:
        self.tried.append(checkpoint.step)
        if checkpoint.step in self.full:
            raise WriteError("x.pt: the checkpoint could not be written: the disk is full")
        return super().save(checkpoint, best=best)


def test_a_checkpoint_that_fails_is_tried_again_after_each_step_and_told_once(tmp_path: Path) -> None:
    console, disk = Lines(), Full(tmp_path, 4, 5)
    loop = trainer(Line(), disk, console=console, total_steps=8, checkpoint_every=2)
    loop.fit(batches())
    assert disk.tried == [2, 4, 5, 6, 8]
    assert [s for s, _ in disk.steps()] == [8, 6, 2]
    assert len(console.warnings) == 1
    assert console.warnings[0].startswith(
        "step 4: x.pt: the checkpoint could not be written: the disk is full"
    )
    assert (
        "the steps since the checkpoint of step 2 (2) are at stake; it is tried again after each step"
        in (console.warnings[0])
    )


def test_where_there_is_no_room_yet_it_is_not_even_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Full(tmp_path, 2, 2)
    monkeypatch.setattr(disk, "has_room", lambda: False)
    loop = trainer(Line(), disk, console=Lines(), total_steps=6, checkpoint_every=2)
    loop.fit(batches())
    assert disk.tried == [2, 4, 6]


def test_a_last_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    disk = Full(tmp_path, 3, 9)
    loop = trainer(Line(), disk, console=Lines(), total_steps=4, checkpoint_every=1)
    with pytest.raises(
        WriteError, match=r"stopped after step 4.*full; the steps since.* step 2 \(2\) are lost"
    ):
        loop.fit(batches())
    assert load(tmp_path / "last.pt").step == 2


def test_a_stop_whose_checkpoint_cannot_be_written_does_not_say_that_it_was(tmp_path: Path) -> None:
    def source() -> Iterator[Batch]:
        signal.raise_signal(signal.SIGTERM)
        yield batch(0)

    loop = trainer(Line(), Full(tmp_path, 0, 9), console=Lines())
    with pytest.raises(WriteError, match="nothing of this run was saved before, so 1 step is lost"):
        loop.fit(source())


def test_an_evaluation_whose_checkpoint_failed_is_not_the_best(tmp_path: Path) -> None:
    scores = {2: 0.5, 4: 0.3}
    disk = Full(tmp_path, 2, 2)
    loop = trainer(
        Line(),
        disk,
        console=Lines(),
        eval_every=2,
        evaluate=lambda step, stopping: {"bbox/AP": scores[step]},
    )
    loop.fit(batches())
    assert load(tmp_path / "best.pt").best == {"bbox/AP": 0.3, "step": 4}


def test_what_the_guard_says_stops_the_run_and_nothing_is_written_any_more(tmp_path: Path) -> None:
    asked: list[int] = []

    def guard() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise UserError("the folder is gone")

    loop = trainer(Line(), tmp_path, total_steps=9, checkpoint_every=1, log_every=99, guard=guard)
    with pytest.raises(UserError, match="the folder is gone"):
        loop.fit(batches())
    assert load(tmp_path / "last.pt").step == 2
    assert loop.state.step == 4


@pytest.mark.parametrize("keep", [1, 2])
def test_ruined_weights_are_told_and_cost_no_sound_checkpoint(tmp_path: Path, keep: int) -> None:
    def rate(step: int) -> float:
        return 1e17 if step == 2 else 0.0 if step > 2 else 0.1

    console, folder = Lines(), CheckpointFolder(tmp_path, keep=keep)
    loop = trainer(Line(), folder, console=console, total_steps=7, checkpoint_every=1, rate=rate, log_every=1)
    loop.fit(batches())
    ruin = [w for w in console.warnings if "ruined" in w]
    assert len(ruin) == 1
    assert ruin[0].startswith(
        "step 3: the weights have grown from a root mean square of 0 at the beginning to "
    )
    assert f"{tmp_path}/step_00000002.pt is from before and is kept" in ruin[0]
    assert f"a lower --set solver.optimizer.lr and --set weights={tmp_path}/step_00000002.pt" in ruin[0]
    assert any("the loss has grown to" in w for w in console.warnings)
    assert [s for s, _ in folder.steps()] == [*range(7, 7 - keep, -1), 2]
    assert load(tmp_path / "last.pt").step == 7

    console = Lines()
    saved, one = load(tmp_path / "last.pt"), CheckpointFolder(tmp_path, keep=1)
    trainer(Line(), one, console=console, total_steps=8, resume=saved).fit(batches(7))
    assert "step 7: the weights have a root mean square of" in console.warnings[0]
    assert (tmp_path / "step_00000002.pt").exists()


def test_a_loss_that_is_not_finite_after_ruin_says_which_checkpoint_is_sound(tmp_path: Path) -> None:
    bad = Batch([torch.full((3, 2, 2), math.nan)] * 2, batch(2).infos, [])
    loop = trainer(
        Line(), tmp_path, console=Lines(), checkpoint_every=1, rate=lambda step: 1e17 if step == 1 else 0.1
    )
    with pytest.raises(
        NonFiniteError, match=r"step 2 is kept, but its weights are ruined.*sound: that of step 1\)"
    ):
        loop.fit([batch(0), batch(1), bad])
