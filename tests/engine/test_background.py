from __future__ import annotations

import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.engine.background import BackgroundWriter, Copies
from maskrcnn.engine.checkpoint import Checkpoint, WriteError, load
from maskrcnn.engine.checkpoint_folder import CheckpointFolder
from maskrcnn.structures import Batch
from tests.engine.line import Line, Lines, batch, batches, trainer
from tests.test_resume import assert_same_state

ROOT = Path(__file__).resolve().parents[2]


class Slow(CheckpointFolder):
    """A disk that takes its time: each write waits until it is told to go on."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, keep=9, **options)
        self.go_on = threading.Event()
        self.began: list[int] = []

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> Path:
        self.began.append(checkpoint.step)
        assert self.go_on.wait(60.0)
        return super().save(checkpoint, best=best)


def test_a_copy_is_equal_in_strides_too_and_stays_what_it_was() -> None:
    content = OrderedDict(
        w=torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        one=torch.randn(8, 1, 1, 1).to(memory_format=torch.channels_last),
        more=[{"n": 3, "m": (torch.tensor(2.0, requires_grad=True), "x")}],
    )
    content.version = 7  # type: ignore[attr-defined]
    before = {"w": content["w"].clone(), "one": content["one"].clone()}
    copies = Copies()
    copy, wait = copies.of(content)
    wait()
    content["w"].zero_()
    assert copy.version == 7  # type: ignore[attr-defined]
    for name, value in before.items():
        assert copy[name].equal(value)
        assert copy[name].stride() == content[name].stride()
    number, text = copy["more"][0]["m"]
    assert (number.item(), number.requires_grad, text, copy["more"][0]["n"]) == (2.0, False, "x", 3)
    again, _ = copies.of(content)
    assert again["w"].data_ptr() == copy["w"].data_ptr()
    other, _ = copies.of({"w": torch.zeros(2)})
    assert other["w"].shape == (2,)


def test_training_goes_on_while_a_checkpoint_is_written_and_waits_for_the_one_before(tmp_path: Path) -> None:
    disk = Slow(tmp_path)
    seen: list[tuple[int, bool]] = []

    def source() -> Iterator[Batch]:
        for step in range(5):
            seen.append((step, (tmp_path / "step_00000002.pt").exists()))
            if step == 3:
                assert disk.began == [2]
                disk.go_on.set()
            yield batch(step)

    loop = trainer(Line(), disk, total_steps=5, checkpoint_every=2, background=True)
    loop.fit(source())
    assert seen[2:4] == [(2, False), (3, False)]  # the write of step 2 holds no step
    assert [step for step, _ in disk.steps()] == [5, 4, 2]
    assert load(tmp_path / "last.pt").step == 5


def test_what_is_written_is_the_state_of_its_step(tmp_path: Path) -> None:
    for name, background in (("at_once", False), ("beside", True)):
        folder = CheckpointFolder(tmp_path / name, keep=9)
        loop = trainer(Line(0.3), folder, total_steps=6, checkpoint_every=1, background=background)
        loop.fit(batches())
    for step in range(1, 7):
        at_once, beside = (load(tmp_path / n / f"step_{step:08d}.pt") for n in ("at_once", "beside"))
        assert_same_state(at_once, beside)


class Full(CheckpointFolder):
    """A disk that is full at some steps."""

    def __init__(self, folder: Path, *steps: int) -> None:
        super().__init__(folder, keep=9)
        self.full = steps

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> Path:
        if checkpoint.step in self.full:
            raise WriteError("x.pt: the checkpoint could not be written: the disk is full")
        return super().save(checkpoint, best=best)


def test_a_failure_is_told_once_with_its_own_step_and_tried_again(tmp_path: Path) -> None:
    console = Lines()
    loop = trainer(
        Line(),
        Full(tmp_path, 4, 5),
        console=console,
        total_steps=8,
        checkpoint_every=2,
        background=True,
    )
    loop.fit(batches())
    assert len(console.warnings) == 1
    assert console.warnings[0].startswith("step 4: x.pt: the checkpoint could not be written")
    assert "the steps since the checkpoint of step 2 (2) are at stake" in console.warnings[0]
    assert {8, 6, 2} <= {step for step, _ in loop.saving.folder.steps()}  # type: ignore[union-attr]


def test_a_last_checkpoint_that_failed_in_the_background_is_an_error(tmp_path: Path) -> None:
    loop = trainer(
        Line(), Full(tmp_path, 3, 4), console=Lines(), total_steps=4, checkpoint_every=1, background=True
    )
    with pytest.raises(WriteError, match=r"stopped after step 4.*the steps since.* step 2 \(2\) are lost"):
        loop.fit(batches())
    assert load(tmp_path / "last.pt").step == 2


def test_an_evaluated_checkpoint_is_on_the_disk_when_training_goes_on(tmp_path: Path) -> None:
    scores = {2: 0.5, 4: 0.3}
    loop = trainer(
        Line(),
        Full(tmp_path, 2),
        console=Lines(),
        eval_every=2,
        evaluate=lambda step, stopping: {"bbox/AP": scores[step]},
        background=True,
    )
    loop.fit(batches())
    assert load(tmp_path / "best.pt").best == {"bbox/AP": 0.3, "step": 4}


def test_without_memory_for_a_copy_it_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(self: Copies, content: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Copies, "of", no_memory)
    trainer(Line(), tmp_path, total_steps=3, checkpoint_every=1, background=True).fit(batches())
    assert load(tmp_path / "last.pt").step == 3


def test_a_fault_of_the_code_in_the_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    monkeypatch.setattr(folder, "save", lambda checkpoint, best: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer(Line(), folder, total_steps=3, checkpoint_every=1, background=True).fit(batches())


def test_one_piece_of_work_at_a_time() -> None:
    writer, order = BackgroundWriter(), list[str]()
    value = {"w": torch.zeros(1)}
    for name in "abc":
        last = writer.start(value, lambda copy, name=name: order.append(f"{name}{copy['w'].item():.0f}"))
        value["w"] += 1
    last.result()
    assert order == ["a0", "b1", "c2"]


#: Trains three steps; the write of the third checkpoint is cut by SIGKILL when half of it is on the disk.
KILLED = """
import os, signal, sys
from pathlib import Path
from maskrcnn import files
from tests.engine.line import Line, batches, trainer

write = files._Told.write
def half(self, data):
    if len(list(Path(sys.argv[1]).glob("step_*.pt"))) < 2 or len(data) < 100:
        return write(self, data)
    write(self, memoryview(data)[: len(data) // 2])
    self.flush()
    os.kill(os.getpid(), signal.SIGKILL)
files._Told.write = half
trainer(Line(), Path(sys.argv[1]), total_steps=3, checkpoint_every=1, background=True).fit(batches())
"""


def test_a_crash_in_the_middle_of_a_write_leaves_the_one_before(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert list(tmp_path.glob(".maskrcnn-*.tmp"))  # the half
    found = CheckpointFolder(tmp_path).latest()
    assert found is not None
    assert (found[0].step, found[2]) == (2, [])
    assert load(tmp_path / "last.pt").step == 2
