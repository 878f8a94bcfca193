"""A part of tomorrow: files from before there was one, and files that hold one unknown here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.engine.checkpoint import Checkpoint, Part, Parts, incomplete, load, load_parts, save, unknown
from maskrcnn.errors import CheckpointError
from tests.engine.line import Line, batches, make_step, trainer


class Mean:
    """The mean of a model's weight over checkpoints: a part that a plugin of tomorrow may have."""

    def __init__(self, model: Line) -> None:
        self.model, self.value, self.count = model, torch.zeros(()), 0

    def state_dict(self) -> dict[str, Any]:
        self.count += 1
        self.value = self.value + (self.model.w.detach() - self.value) / self.count
        return {"value": self.value, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.count = state["value"], state["count"]

    def part(self) -> Part:
        default = {"value": self.model.w.detach(), "count": 1}  # what is loaded goes into the same tensor
        return Part(self.state_dict, lambda state, _: self.load_state_dict(state), lambda: default)


def parts_of(model: Line) -> tuple[Parts, Mean]:
    mean = Mean(model)
    return {**make_step(model).parts(), "mean": mean.part()}, mean


def saved(folder: Path, **changes: Any) -> tuple[Checkpoint, Path]:
    """A file of one step, with some of its content changed; a value of None takes it out."""
    trainer(Line(), folder, total_steps=1).fit(batches())
    path = folder / "last.pt"
    content = torch.load(path, weights_only=True) | {"config": "x: 1\n", "category_ids": [1]} | changes
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return load(path), path


def test_a_further_part_is_saved_under_its_name_and_comes_back(tmp_path: Path) -> None:
    parts, mean = parts_of(Line())
    mean.load_state_dict({"value": torch.tensor(3.0), "count": 1})
    full = Checkpoint(model={}).with_states({name: part.save() for name, part in parts.items()})
    save(full, tmp_path / "c.pt")
    assert set(torch.load(tmp_path / "c.pt", weights_only=True)) >= {"model", "optimizer", "scaler", "mean"}
    other, again = parts_of(Line())
    load_parts(other, load(tmp_path / "c.pt"), tmp_path / "c.pt")
    assert (again.value.item(), again.count) == (1.5, 2)


def test_a_file_from_before_a_part_gives_its_default(tmp_path: Path) -> None:
    checkpoint, path = saved(tmp_path)
    parts, mean = parts_of(Line())
    load_parts(parts, checkpoint, path)
    assert mean.value.item() == checkpoint.model["w"].item() != 0.0
    assert incomplete(parts, checkpoint, path) == []


@pytest.mark.parametrize("name", ["optimizer", "config", "category_ids"])
def test_what_a_file_lacks_is_told_once(tmp_path: Path, name: str) -> None:
    checkpoint, path = saved(tmp_path, **{name: None})
    model = Line()
    parts = make_step(model).parts()
    load_parts(parts, checkpoint, path)
    assert model.w.item() == checkpoint.model["w"].item()
    assert incomplete(parts, checkpoint, path) == [f"{path} does not hold {name}, so the run goes on without"]


def test_what_is_not_known_is_left_out_and_told_in_one_sentence(tmp_path: Path) -> None:
    checkpoint, path = saved(tmp_path, later={"w": torch.ones(())}, sampler={"seen": 3})
    parts = make_step(Line()).parts()
    load_parts(parts, checkpoint, path)
    (sentence,) = incomplete(parts, checkpoint, path)
    assert sentence.startswith(f"{path} holds 'later', 'sampler', unknown here")
    assert unknown(checkpoint, path) == [sentence]
    assert unknown(checkpoint, path, {**parts, "later": parts["scaler"], "sampler": parts["scaler"]}) == []


def test_a_state_that_does_not_fit_its_part_is_a_sentence(tmp_path: Path) -> None:
    checkpoint, path = saved(tmp_path)
    parts, _ = parts_of(Line())
    with pytest.raises(CheckpointError, match=r"last\.pt: its mean does not fit \('value'\)"):
        load_parts(parts, replace(checkpoint, more={"mean": {"other": 1}}), path)
    with pytest.raises(CheckpointError, match=r"last\.pt: does not fit this model"):
        load_parts(parts, replace(checkpoint, model={"v": torch.ones(())}), path)
