"""A disk that is full: told once, nothing saved is lost, and the run is the same when there is room again.

On a real small file system where the system lets us mount one, and with writes that are made to fail.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.cli import main
from maskrcnn.engine import checkpoint_folder as checkpoints
from maskrcnn.engine.console import Console
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import CheckpointError
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import train
from maskrcnn.run.predict import Predicting
from tests.engine.tiny import write_recipe
from tests.test_resume import assert_same_state, last

CHANGES = [
    "train.checkpoint_every=1",
    "train.eval_every=3",
    "train.tensorboard=true",
    "train.pictures=1",
]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file, CHANGES)


@pytest.fixture(scope="module")
def straight(recipe: Recipe, recipe_file: Path) -> Path:
    """A run whose disk always has room."""
    folder = recipe_file.parent / "straight"
    train(recipe, folder, console=Console(quiet=True))
    return folder


class At(Console):
    """Calls something when the log says that a step is done."""

    def __init__(self, calls: dict[int, Callable[[], object]]) -> None:
        super().__init__()
        self.calls = calls

    def line(self, text: str = "") -> None:
        super().line(text)
        for step, call in self.calls.items():
            if text.startswith(f"step {step}/"):
                call()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if sys.platform != "linux" or mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a file system, on Linux")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=5m", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def await_save(run: Path, step: int) -> None:
    """Until the checkpoint of ``step``, which is written while training goes on, has all its names."""
    file, name = (run / "checkpoints" / n for n in (f"step_{step:08d}.pt", "last.pt"))
    deadline = time.monotonic() + 60.0
    while not (file.exists() and name.exists() and name.samefile(file)):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def fill(folder: Path) -> None:
    with (folder / "filler").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with pytest.raises(OSError, match="No space left"):
                write_on(file, b"x" * size)


def write_on(file: Any, data: bytes) -> None:
    while True:
        file.write(data)


class Switch:
    """Makes every write fail as on a full disk, while it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        write, opened, room = os.write, Path.open, checkpoints.free_bytes

        def no_write(handle: int, data: Any) -> int:
            self._fail()
            return write(handle, data)

        def no_open(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode == "xb":
                self._fail()
            return opened(path, mode, *args, **kwargs)

        monkeypatch.setattr(os, "write", no_write)
        monkeypatch.setattr(Path, "open", no_open)
        monkeypatch.setattr(checkpoints, "free_bytes", lambda folder: 0 if self.on else room(folder))

    def _fail(self) -> None:
        if self.on:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def turn(self) -> None:
        self.on = not self.on


def check_told(err: str, run: Path) -> None:
    """Each thing once, called full, with what is at stake."""
    assert "Traceback" not in err
    assert "unexpected pos" not in err
    assert err.count("checkpoint could not be written: the disk is full") == 1
    assert "the steps since the checkpoint of step 2 (1) are at stake" in err
    for name in ("results.json", "figures.json"):
        assert err.count(f"{run / name}: could not be written: the disk is full") == 1


def check_whole(run: Path, straight: Path, *, kept: Collection[int] = (3, 6)) -> None:
    """The run's end is that of one whose disk always had room, but for the best of what was kept."""
    evaluations = [r for r in read_metrics(straight / "metrics.jsonl") if r["kind"] == "eval"]
    best = max((r for r in evaluations if r["step"] in kept), key=lambda r: float(r["segm/AP"]))
    assert last(run).best == {"segm/AP": best["segm/AP"], "step": best["step"]}
    assert_same_state(replace(last(straight), best={}), replace(last(run), best={}))
    assert not list(run.rglob(".maskrcnn-*"))
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (straight, run))
    assert [(r["step"], r["kind"]) for r in one] == [(r["step"], r["kind"]) for r in two]
    assert [r.get("loss") for r in one] == [r.get("loss") for r in two]
    for name in ("results.json", "figures.json"):
        assert (run / name).read_bytes() == (straight / name).read_bytes()


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    disk: Path, recipe: Recipe, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk / "run"
    calls = {3: lambda: (await_save(run, 2), fill(disk)), 5: (disk / "filler").unlink}
    train(recipe, run, console=At(calls))
    check_told(capsys.readouterr().err, run)
    check_whole(run, straight, kept=[6])
    log = (run / "log.txt").read_text()
    assert all(f"step {i}/6" in log for i in range(1, 7))


def test_a_disk_that_stays_full_is_an_error_and_the_run_goes_on_later(
    disk: Path, recipe: Recipe, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk / "run"
    with pytest.raises(
        CheckpointError, match=r"stopped after step 6.*the disk is full.*step 2 \(4\) are lost"
    ):
        train(recipe, run, console=At({3: lambda: (await_save(run, 2), fill(disk))}))
    check_told(capsys.readouterr().err, run)
    assert last(run).step == 2
    (disk / "filler").unlink()
    train(recipe, run, resume=True, console=Console(quiet=True))
    check_whole(run, straight)


def test_the_same_with_writes_that_fail(
    recipe: Recipe,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, switch = tmp_path / "run", Switch(monkeypatch)
    calls = {3: lambda: (await_save(run, 2), switch.turn()), 5: switch.turn}
    train(recipe, run, console=At(calls))
    err = capsys.readouterr().err
    check_told(err, run)
    for name in ("log.txt", "metrics.jsonl", "tensorboard/events"):
        assert err.count(f"{run / name}") >= 1
    check_whole(run, straight, kept=[6])
    assert "step 4/6" in (run / "log.txt").read_text()


def test_eval_prints_its_figures_and_names_what_is_missing(
    recipe: Recipe,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Switch(monkeypatch).turn()
    results, pictures = tmp_path / "r" / "results.json", tmp_path / "p"
    command = ["eval", "--checkpoint", str(straight), "--results", str(results), "--pictures", str(pictures)]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "segm AP50" in out
    assert "results written" not in out
    assert f"warning: {results}: could not be written: the disk is full" in err
    assert f"error: not written: {results} and {pictures}" in err


def test_predict_does_the_others_and_names_what_is_missing(
    recipe_file: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    switch, stills = Switch(monkeypatch), Predicting._stills

    def full_from_here(predicting: Predicting) -> None:
        switch.turn()
        stills(predicting)

    monkeypatch.setattr(Predicting, "_stills", full_from_here)
    images = [str(recipe_file.parent / "images" / f"{i}.png") for i in (1, 2)]
    command = [
        "predict",
        *images,
        "--checkpoint",
        str(straight),
        "--out",
        str(tmp_path / "o"),
        "--score",
        "0",
    ]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "2 images, " in out
    assert f"{tmp_path / 'o' / '1.png'}: could not be written: the disk is full" in err
    assert f"2.png and {tmp_path / 'o' / 'predictions.json'} (the reason stands above)" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_command_whose_output_goes_nowhere_says_so() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "maskrcnn", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("maskrcnn: error: standard output")
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
