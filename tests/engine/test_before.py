"""A checkpoint of before the trainer was split into parts: it loads, predicts and trains on, for good.

``tests/fixtures/checkpoint_1/README.md`` says how it was made, and how its losses are recorded anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.engine.checkpoint import load
from maskrcnn.run import Predictor
from tests.fixtures.checkpoint_1 import record

TRUSTED = ["plugins=[tests.engine.tiny_backbone]"]


def test_it_loads() -> None:
    found = load(record.CHECKPOINT)
    assert (found.step, found.evaluated, found.best) == (3, 3, {"segm/AP": 0.0, "step": 3})
    assert (found.category_ids, found.category_names) == ((2, 5), ("box", "disc"))
    assert sum(tensor.numel() for tensor in found.model.values()) == 7604
    assert len(found.optimizer["state"]) > 0
    assert found.more == {}


def test_it_predicts() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[20:40, 10:50] = 220
    found = Predictor(record.CHECKPOINT, score=0.0, overrides=TRUSTED)(image)
    assert len(found) > 0
    assert found.masks is not None and found.masks.shape == (len(found), 64, 64)


def test_a_later_file_predicts_and_says_what_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(record.CHECKPOINT, weights_only=True)
    torch.save({**content, "later": content["model"]}, tmp_path / "later.pt")
    found = Predictor(tmp_path / "later.pt", score=0.0, overrides=TRUSTED)
    assert [r.getMessage().partition(",")[0] for r in caplog.records if r.levelname == "WARNING"] == [
        f"{tmp_path / 'later.pt'} holds 'later'"
    ]
    assert set(found.model.state_dict()) == set(content["model"])


def test_it_trains_on_to_the_losses_that_its_own_code_gave(tmp_path: Path) -> None:
    losses = record.run(tmp_path, record.CHECKPOINT)
    if os.environ.get("MASKRCNN_RECORD") == "1":
        record.write_losses(losses)
    wanted = json.loads(record.LOSSES.read_text())
    assert [entry["step"] for entry in losses] == [4, 5, 6]
    assert len(losses) == len(wanted)
    for found, entry in zip(losses, wanted, strict=True):
        assert found == pytest.approx(entry, rel=1e-5)
