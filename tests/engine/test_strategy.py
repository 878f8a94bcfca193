"""One process here; two ranks in two_ranks.py, which test_distributed.py starts."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.engine.strategy import DataParallel, choose_strategy
from maskrcnn.errors import CheckpointError
from tests.engine.line import ALONE, Line


def test_one_process_trains_the_model_as_it_is() -> None:
    model = Line()
    strategy = choose_strategy(ALONE, model)
    assert not isinstance(strategy, DataParallel)
    assert strategy.module is strategy.model is model
    with strategy.no_sync():
        model.w.square().backward()  # type: ignore[no-untyped-call]
    strategy.load_model({"w": torch.tensor(2.0)}, "x.pt")
    assert strategy.model_state()["w"].item() == 2.0
    with pytest.raises(CheckpointError, match=r"x\.pt: does not fit this model"):
        strategy.load_model({}, "x.pt")


def test_an_optimizer_comes_back_with_its_momenta() -> None:
    states = []
    for _ in range(2):
        model = Line()
        strategy = choose_strategy(ALONE, model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if states:
            strategy.load_optimizer(optimizer, states[0], "x.pt")
        else:
            (model.w - 1).square().backward()
            optimizer.step()
        states.append(strategy.optimizer_state(optimizer))
    assert states[1]["state"][0]["momentum_buffer"].item() == -2.0
