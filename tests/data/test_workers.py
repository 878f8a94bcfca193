"""A loading process that dies, is stopped or stands still: told with its image, and its batches made anew."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.data import CocoDataset, SyntheticConfig, synthetic_dataset, train_loader
from maskrcnn.data import loader as loader_module
from maskrcnn.data import workers as workers_module
from maskrcnn.data.workers import LostWorkerError, Places
from maskrcnn.structures import Batch, RawSample
from tests.data.test_loader import AUGMENT, assert_same

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


class Harmed(CocoDataset):
    """Does ``harm`` in a loading process, each time that it comes to image ``bad``, so many times in all."""

    harm: Callable[[], None]
    counter: Path
    times = 1
    bad = 5

    def load(self, index: int) -> RawSample:
        done = len(self.counter.read_text()) if self.counter.exists() else 0
        if index == self.bad and os.getpid() != self.parent and done < self.times:
            self.counter.write_text("x" * (done + 1))
            self.harm()
        return super().load(index)


@pytest.fixture
def harmed(tmp_path: Path) -> Harmed:
    config = SyntheticConfig(level="medium", split="train", num_images=13, size=48)
    folder = synthetic_dataset(tmp_path / "synthetic", config)
    dataset = Harmed(folder / "images", folder / "annotations.json", training=True)
    dataset.counter = tmp_path / "times"
    dataset.parent = os.getpid()  # type: ignore[attr-defined]
    return dataset


def read(dataset: Harmed, workers: int) -> tuple[list[Batch], list[str]]:
    options: dict[str, Any] = {"images_per_rank": 2, "total_steps": 12, "seed": 4}
    loader, told = train_loader(dataset, AUGMENT, workers=workers, **options), list[str]()
    loader.tell = told.append
    return list(loader), told


def end_by(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (end_by(signal.SIGKILL), "was ended by SIGKILL at image"),
        (end_by(signal.SIGSEGV), "was ended by SIGSEGV at image"),
        (lambda: os._exit(3), "ended with status 3 at image"),
        (end_by(signal.SIGSTOP), "was stopped by a signal"),
        (lambda: time.sleep(60), "stood still for 2 s at image"),
    ],
    ids=["killed", "crashed", "ended", "stopped", "hangs"],
)
def test_batches_are_the_same_and_it_is_told_with_its_image(
    harmed: Harmed, harm: Callable[[], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "STANDSTILL", 2.0)
    monkeypatch.setattr(workers_module, "STOPPED_LOOKS", 2)
    expected, nothing = read(harmed, 0)
    harmed.harm = harm
    found, (told,) = read(harmed, 2)
    assert nothing == []
    assert_same(found, expected)
    assert words in told
    assert f"image {harmed.image_ids[harmed.bad]} ({harmed.path(harmed.bad)})" in told
    assert "Its batch is made anew by new processes" in told


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("collate", "stood still for 2 s as it put a batch together)"),
        ("_Loaded.__reduce__", "sent nothing for 2 s"),  # a thread of the worker's own sends
    ],
)
def test_a_process_that_hangs_past_its_images_is_told_too(
    harmed: Harmed, part: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "STANDSTILL", 2.0)
    harmed.bad = -1  # no image does harm: the process may come to it before it sends its first batch
    expected, _ = read(harmed, 0)
    owner, name = (loader_module, part) if "." not in part else (loader_module._Loaded, "__reduce__")
    real = getattr(owner, name)

    def hang(*args: Any) -> Any:
        if os.getpid() != harmed.parent and not harmed.counter.exists():  # type: ignore[attr-defined]
            harmed.counter.write_text("x")
            time.sleep(60)
        return real(*args)

    monkeypatch.setattr(owner, name, hang)
    found, (told,) = read(harmed, 2)
    assert_same(found, expected)
    assert words in told and "Its batch is made anew by new processes" in told


def test_an_image_that_ends_every_process_ends_the_run_and_is_named(harmed: Harmed) -> None:
    harmed.times, harmed.harm = 100, end_by(signal.SIGSEGV)
    with pytest.raises(
        LostWorkerError, match=rf"at image {harmed.image_ids[harmed.bad]} .*take that one out"
    ):
        read(harmed, 1)
    assert harmed.counter.read_text() == "xxxx"


def test_places_are_of_workers_alone() -> None:
    places = Places(2)
    places.at(7)  # not in a worker
    assert places.of(os.getpid()) == places.of(None) == -1
