"""What is seen of a run while it runs."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.engine.console import Console
from maskrcnn.engine.events import Events, Tally, describe_legend, describe_losses, format_seconds
from maskrcnn.engine.outcomes import StepResult, Wishes


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is, by ``time.perf_counter``."""
    now = [105.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def progress(events: Events, step: int = 40, waiting: float = 0.5) -> None:
    losses = {"loss_mask": 5.0, "loss_box_cls": 2.5}
    done = Tally(losses, steps=10, images=20, waiting=waiting, grad_norm=1.5, began=100.0)
    events.progress(done, step=step, total=100, lr=0.02, memory=2**30)


def test_losses_are_means_and_the_rest_sums(clock: list[float]) -> None:
    tally = Tally()
    first = StepResult(losses={"a": 1.0, "b": 4.0}, images=2, waiting=0.5, grad_norm=3.0, wishes=Wishes())
    tally.add(first)
    tally.add(StepResult(losses={"a": 3.0}, images=4, waiting=0.25, grad_norm=5.0, wishes=Wishes()))
    assert tally.means() == {"a": 2.0, "b": 2.0}
    assert (tally.steps, tally.images, tally.waiting, tally.grad_norm) == (2, 6, 0.75, 5.0)
    assert tally.began == clock[0]


def test_time_left_out_counts_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    tally = Tally({"loss": 1.0}, steps=1, images=6)
    tally.began += 4.0
    clock[0] += 10.0  # 10 s later, 4 of them spent on something else
    Events(tmp_path, Console(), tensorboard=False).progress(tally, step=1, total=9, lr=0.1, memory=0)
    assert "1.00 img/s" in capsys.readouterr().out


def test_a_progress_line_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(tmp_path, Console(), tensorboard=False)
    progress(events)
    line = capsys.readouterr().out
    for part in (
        "step 40/100",
        "loss 0.750 (mask 0.500 box_cls 0.250)",
        "lr 2.00e-02",
        "grad 1.50",
        "4.00 img/s",
        "data 10%",
        "mem 1.00 GiB",
        "eta 30s",
    ):
        assert part in line


def test_epochs_stand_beside_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """20 images in 10 steps are 2 a step: 80 after 40 steps, of 160."""
    progress(Events(tmp_path, Console(), tensorboard=False, epoch_images=160))
    assert "step 40/100  epoch 0.50/1.25  loss 0.750" in capsys.readouterr().out


def test_a_line_is_explained_once_and_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(tmp_path, Console(), tensorboard=False)
    for step in (40, 50):
        progress(events, step)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["loss", "step", "step"]
    assert "mask: masks in them, box_cls: classes of the boxes" in lines[0]


def test_the_legend_tells_what_there_is_alone() -> None:
    losses = {"loss_box_cls_stage1": 1.0, "loss_box_cls_stage2": 1.0, "loss_of_my_own": 1.0}
    told = describe_legend(losses, clipped=False)
    assert told.count("box_cls") == 1 and "my_own" not in told and "rpn" not in told and "grad" not in told
    assert "grad: norm" in describe_legend({}, clipped=True)


def test_losses_of_a_cascade_stand_together() -> None:
    losses = {"loss_rpn_cls": 0.5, "loss_mask": 0.25}
    for stage in (1, 2, 3):
        losses |= {f"loss_box_cls_stage{stage}": stage / 10, f"loss_box_reg_stage{stage}": 0.0}
    assert describe_losses(losses) == (
        "rpn_cls 0.500 mask 0.250 box_cls 0.100/0.200/0.300 box_reg 0.000/0.000/0.000"
    )


def test_waiting_for_data_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(tmp_path, Console(), tensorboard=False)
    for step in (40, 50, 60):
        progress(events, step, waiting=3.0)
    assert capsys.readouterr().err.count("60% of the time is spent waiting for data") == 1


def test_tensorboard_has_losses_figures_and_pictures_and_no_step_twice(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start in (0, 40):  # killed after step 50, resumed from 40
        events = Events(tmp_path, Console(quiet=True), start_step=start)
        for step in (40, 50):
            if step > start:
                progress(events, step)
        events.evaluation(50, {"segm/AP": 0.25}, 1.0)
        events.picture(50, "eval/a", np.zeros((4, 5, 3), dtype=np.uint8))
        events.close()
    board = loading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss/mask")] == [(40, 0.5), (50, 0.5)]
    assert [e.value for e in board.Scalars("eval/segm/AP")] == [0.25]
    assert board.Scalars("train/lr")[0].value == pytest.approx(0.02)
    picture = board.Images("eval/a")[-1]
    assert (picture.width, picture.height) == (5, 4)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (75, "1m15s"), (3599.6, "1h00m"), (7500, "2h05m"), (200_000, "2d07h")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_console_keeps_a_log_and_ranks_are_silent_but_for_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console()
    console.open(tmp_path / "log.txt")
    console.line("one\ntwo")
    console.warn("three")
    console.close()
    assert [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "one",
        "two",
        "warning: three",
    ]
    other = Console(quiet=True, prefix="rank 1: ")
    other.line("four")
    other.warn("five")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err == "warning: three\nrank 1: warning: five\n"


def test_what_modules_log_reaches_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    main, other = Console(), Console(quiet=True)
    for console in (main, other):
        console.take_logs()
    logging.getLogger("maskrcnn.data").warning("two faulty annotations")
    logging.getLogger("maskrcnn.data").info("drawing")
    main.close()
    other.close()
    logging.getLogger("maskrcnn.data").info("late")
    out, err = capsys.readouterr()
    assert err == "warning: two faulty annotations\n"
    assert out == "drawing\n"


def lose(events: Events, losses: list[float], each: int = 50) -> None:
    """Log these mean losses, so many steps each."""
    for k, loss in enumerate(losses):
        done = Tally({"loss_mask": loss * each}, steps=each, images=each, began=100.0)
        events.progress(done, step=(k + 1) * each, total=10_000, lr=0.1, memory=0)


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([2.0] * 10, 1),
        ([2.0, *[3.0] * 30], 1),  # once
        ([2.0, *[1.9] * 20], 0),
        ([2.0, *[3.0] * 4, *[1.5] * 5, *[9.0] * 10], 0),  # judged once
        ([2.0] * 9, 0),  # too early
    ],
)
def test_a_loss_that_does_not_fall_is_told_once(
    losses: list[float], told: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(Events(tmp_path, Console(), tensorboard=False), losses)
    assert capsys.readouterr().err.count("the loss does not fall: 2 over the first 50 steps") == told


def test_a_resumed_run_is_not_asked_to_fall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lose(Events(tmp_path, Console(), tensorboard=False, start_step=20), [2.0] * 20)
    assert "does not fall" not in capsys.readouterr().err


def test_an_evaluation_that_finds_nothing_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = Events(tmp_path, Console(), tensorboard=False)
    events.evaluation(1, {"segm/AP": 0.0, "bbox/AP": 0.001, "val/loss": 1.0}, 1.0)
    events.evaluation(1, {"val/loss": 1.0}, 1.0)
    assert "found nothing" not in capsys.readouterr().err
    for step in (2, 3):
        events.evaluation(step, {"segm/AP": 0.0, "bbox/AP": 0.0, "bbox/AR1": 0.1}, 1.0)
    assert capsys.readouterr().err.count("the evaluation at step 2 found nothing that is right") == 1
