from __future__ import annotations

import threading
from pathlib import Path

import pytest

from maskrcnn.engine import watchdog as module
from maskrcnn.engine.watchdog import Watchdog
from tests.engine.line import Line, Lines, batch, trainer


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_a_step_of_twenty_times_the_usual_is_told_once_with_all_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told, path = Clock(monkeypatch), list[str](), tmp_path / "stacks.txt"
    dog = Watchdog(path, told.append)
    dog.begin(1)
    clock.now += 1000.0  # nothing is usual yet
    dog.look()
    assert dog.limit is None
    dog.done()
    for step in range(2, 5):
        dog.begin(step)
        clock.now += 4.0
        dog.look()
        dog.done()
    assert dog.limit == 80.0
    clock.now += 1000.0  # an evaluation is no step
    dog.look()
    assert told == [] and not path.exists()
    release, held = threading.Event(), threading.Thread(target=lambda: release.wait(), name="held")
    held.start()
    dog.begin(5)
    clock.now += 81.0
    dog.look()
    dog.look()
    release.set()
    held.join()
    (sentence,) = told
    assert sentence.startswith(
        f"step 5 takes more than 80 s, where 4 s are usual; where each thread stands is kept in {path}"
    )
    text = path.read_text()
    assert "step 5, " in text
    assert text.count("most recent call first") >= 2
    assert "test_watchdog.py" in text and "threading.py" in text
    dog.done()
    assert told[1:] == ["step 5 is made, after 81 s"]
    assert dog.limit == 80.0, "what was told does not count as usual"


def test_short_steps_have_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(monkeypatch)
    dog = Watchdog(tmp_path / "stacks.txt", lambda text: None)
    dog.begin(1)
    clock.now += 0.1
    dog.done()
    assert dog.limit == 60.0


def test_a_training_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not come for long is told while it is waited for, and the run goes on."""
    monkeypatch.setattr(module, "LEAST_SECONDS", 0.2)
    monkeypatch.setattr(module, "_LOOK", 0.02)
    console, told = Lines(), threading.Event()

    def tell(text: str) -> None:
        console.warn(text)
        told.set()

    def source():  # type: ignore[no-untyped-def]
        for step in range(4):
            if step == 2:
                assert told.wait(30)
            yield batch(step)

    model = Line()
    trainer(model, console=console, watchdog=Watchdog(tmp_path / "stacks.txt", tell)).fit(source())
    assert model.w.item() != 0.0
    assert [text.partition(" takes")[0] for text in console.warnings[:1]] == ["step 3"]
    assert "test_watchdog.py" in (tmp_path / "stacks.txt").read_text()
