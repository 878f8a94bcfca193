from __future__ import annotations

import pytest

from maskrcnn.engine.step import StepResult, Wishes
from maskrcnn.engine.tally import Tally


def test_losses_are_means_and_the_rest_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    tally = Tally()
    first = StepResult(losses={"a": 1.0, "b": 4.0}, images=2, waiting=0.5, grad_norm=3.0, wishes=Wishes())
    tally.add(first)
    tally.add(StepResult(losses={"a": 3.0}, images=4, waiting=0.25, grad_norm=5.0, wishes=Wishes()))
    now[0] = 110.0
    tally.leave_out(4.0)
    found = tally.progress(step=7, total=9, lr=0.1, memory=123)
    assert found.losses == {"a": 2.0, "b": 2.0}
    assert (found.steps, found.images, found.waiting, found.grad_norm) == (2, 6, 0.75, 5.0)
    assert (found.step, found.total, found.lr, found.memory, found.seconds) == (7, 9, 0.1, 123, 6.0)
