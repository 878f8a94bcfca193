from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn.run.benchmark import steps as module
from maskrcnn.run.benchmark.figures import PARTS
from maskrcnn.run.benchmark.steps import Clock


def test_the_clock_divides_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(2 ** next(ticks)))
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    step: Any = SimpleNamespace(strategy=SimpleNamespace(module=layer), optimizer=optimizer)
    clock = Clock(step, torch.device("cpu"))  # at 1
    batch: Any = SimpleNamespace(images=[torch.zeros(3, 5, 7)])
    source = clock.timed(iter([batch, batch]))
    for _ in range(2):  # two passes of one step: each asks the clock 4 times
        next(source)
        layer(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    clock.enter("rest")
    marks = [2**k for k in range(12)]
    spans = [b - a for a, b in itertools.pairwise(marks)]
    order = ["rest", "data", "rest", "forward", "backward", "data", "backward", "forward", "backward"]
    wanted = dict.fromkeys(PARTS, 0.0)
    for name, span in zip([*order, "optimizer", "rest"], spans, strict=True):
        wanted[name] += span
    assert clock.parts == wanted
    assert clock.sizes == [(5, 7), (5, 7)]
