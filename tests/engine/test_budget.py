"""A run of so many hours: what is measured, what is decided once, and what a schedule makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.engine.budget import MEASURED, SKIPPED, TimeBudget
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.console import Console
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import ConfigError
from maskrcnn.recipe import load_recipe
from maskrcnn.run.folder import RunFolder
from tests.engine.line import ALONE, Line, batches, trainer
from tests.engine.tiny import write_recipe


class Clock:
    """Seconds that pass as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(
    budget: TimeBudget, clock: Clock, steps: int, seconds: float, begin: int = 0, slow: float = 9.0
) -> int | None:
    """So many steps after ``begin``; the first ten take ``slow`` seconds each."""
    budget.begin(begin)
    for step in range(begin + 1, begin + steps + 1):
        clock.now += seconds if step - begin > SKIPPED else slow
        if budget.due(step) and (found := budget.take(step)) is not None:
            return found
    return None


def test_steps_are_the_hours_by_the_time_of_fifty_after_the_first_ten() -> None:
    clock = Clock()
    budget = TimeBudget(2.0, 90_000, ALONE, clock)
    assert run(budget, clock, SKIPPED + MEASURED - 1, 0.5) is None
    assert budget.steps is None and budget.state() == {} and budget.place(59) == 59
    budget = TimeBudget(2.0, 90_000, ALONE, clock)
    assert run(budget, clock, SKIPPED + MEASURED, 0.5) == 14_400
    assert budget.told() == (
        "14400 steps: decided after step 60 by 0.5 s a step and 2 hours (train.hours); the schedule of 90000"
        " steps is stretched to them"
    )


def test_time_of_something_else_does_not_count() -> None:
    clock = Clock()
    budget = TimeBudget(1.0, 1000, ALONE, clock)
    budget.begin(0)
    for step in range(1, 61):
        clock.now += 2.0
        if budget.due(step):
            budget.take(step)
        if step in (5, 30):  # an evaluation
            clock.now += 77.0
            budget.leave_out(77.0)
    assert budget.steps == 1800


def test_the_schedule_is_stretched_over_what_is_left_without_a_jump() -> None:
    clock = Clock()
    for seconds, planned in ((1.0, 1060), (0.125, 100), (30.0, 90_000)):
        budget = TimeBudget(1.0, planned, ALONE, clock)
        total = run(budget, clock, 60, seconds)
        assert total == max(60, round(3600 / seconds))
        places = [budget.place(step) for step in range(total)]
        assert places[:61] == [*range(61)]
        assert places == sorted(places) and places[-1] < planned
        left = (planned - 60) / (total - 60)
        assert all(abs(place - (60 + (s - 60) * left)) < 1 for s, place in enumerate(places) if s > 60)


def test_what_was_decided_is_kept_and_other_hours_go_by_the_same_measure() -> None:
    clock = Clock()
    first = TimeBudget(2.0, 90_000, ALONE, clock)
    run(first, clock, 60, 0.5)
    again = TimeBudget(2.0, 90_000, ALONE, clock)
    again.load(first.state())
    again.begin(700)
    assert not any(again.due(step) for step in range(700, 900))
    assert (again.steps, again.place(5000)) == (14_400, first.place(5000))
    longer = TimeBudget(3.0, 90_000, ALONE, clock)
    longer.load(first.state())
    assert (longer.steps, longer.place(60)) == (21_600, 60)


def test_a_budget_that_is_used_up_ends_at_once_and_a_late_start_still_measures() -> None:
    clock = Clock()
    assert run(TimeBudget(0.001, 1000, ALONE, clock), clock, 60, 1.0) == 60
    budget = TimeBudget(1.0, 100, ALONE, clock)
    assert (
        run(budget, clock, 60, 2.0, begin=95) == 400
    )  # 4 steps of "slow" time; none of the first is left out
    # ... which begin before the planned end, so that the loop does not end without a decision.
    assert budget.state()["after"] == 99


def test_the_loop_makes_as_many_steps_and_saves_the_decision_at_once(tmp_path: Path) -> None:
    clock = Clock()

    def source() -> Iterator[object]:
        for one in batches(0, 1000):
            clock.now += 36.0
            yield one

    lines: list[str] = []
    console = Console(quiet=True)
    console.line = lambda text="": lines.append(text)  # type: ignore[method-assign]
    budget = TimeBudget(1.0, 70, ALONE, clock)
    loop = trainer(
        Line(), tmp_path, total_steps=70, log_every=50, console=console, deferred=True, budget=budget
    )
    loop.fit(source())  # type: ignore[arg-type]
    assert loop.state.step == 100
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00000060.pt", "step_00000100.pt"]
    assert [text for text in lines if "decided after step 60" in text] == [budget.told()]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


def test_a_run_is_told_keeps_its_number_and_is_finished_by_it(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """10 steps by a clock that moves a second each look; gone on with, as many as were decided."""
    monkeypatch.setattr("maskrcnn.engine.budget.SKIPPED", 2)
    monkeypatch.setattr("maskrcnn.engine.budget.MEASURED", 3)
    command = ["train", str(recipe_file), "--set", "solver.steps=61", "--set", "data.val=null"]
    command += [
        "--set",
        "train.log_every=1000",
        "--set",
        "train.checkpoint_every=4",
        "--set",
        "train.keep=99",
    ]
    hours = ["--set", "train.hours=0.001"]  # 3.6 s
    ticks = iter(range(10**6))
    monkeypatch.setattr(TimeBudget.__init__, "__defaults__", (lambda: float(next(ticks)),))
    # begin: 0; after step 2: 1; after step 5: 2 -> a third of a second a step.
    assert main([*command, *hours, "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "steps of 2 images for 0.001 hours (train.hours)" in out
    assert "10 steps: decided after step 5 by 0.333 s a step and 0.001 hours" in out
    assert "finished 10 steps in " in out
    whole = load(tmp_path / "run/checkpoints/last.pt")
    assert whole.step == 10 and whole.more["budget"]["steps"] == 10
    (end,) = [r for r in read_metrics(tmp_path / "run/metrics.jsonl") if r["kind"] == "end"]
    assert end["step"] == 10 and "decided after step 5" in end["why"]

    # Gone on with from step 8, in the middle, where this clock would decide otherwise.
    other = tmp_path / "run"
    files = sorted(p for p in (other / "checkpoints").glob("step_*"))
    assert [p.name for p in files[:3]] == ["step_00000004.pt", "step_00000005.pt", "step_00000008.pt"]
    for file in [*files[3:], other / "checkpoints/last.pt"]:
        file.unlink()
    before = dict(load(files[2]).more["budget"])
    capsys.readouterr()
    assert main([*command, *hours, "--resume", str(other), "--strict"]) == 0
    out = capsys.readouterr().out
    assert f"going on after step 8 of {before['steps']}" in out and "decided after" not in out
    ended = load(other / "checkpoints/last.pt")
    assert (ended.step, ended.more["budget"]) == (before["steps"], before)
    assert all(ended.model[name].equal(value) for name, value in whole.model.items())
    assert main([*command, *hours, "--resume", str(other)]) == 0
    assert "nothing to do (see above)" in capsys.readouterr().out


def test_a_schedule_too_short_to_stretch_is_refused_and_the_advice_works(recipe_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"set solver\.steps above 60"):
        load_recipe(recipe_file, ["train.hours=1"])
    recipe = load_recipe(recipe_file, ["train.hours=1", "solver.steps=61"])
    assert recipe.train.hours == 1.0 and replace(recipe, seed=1).seed == 1


def test_a_folder_knows_that_its_run_is_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.results.write_text("[]")
    folder.figures.write_text('{"step": 27}')
    assert folder.evaluated_to_the_end(27) and not folder.evaluated_to_the_end(61)
    folder.metrics.write_text('{"step": 26, "kind": "end"}\n')
    assert not folder.evaluated_to_the_end(61)
    folder.metrics.write_text('{"step": 27, "kind": "end"}\n')
    assert folder.evaluated_to_the_end(61)
