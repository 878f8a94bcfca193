"""What a step takes, counted and measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maskrcnn.engine.distributed import connect
from maskrcnn.errors import UserError
from maskrcnn.recipe import load_recipe
from maskrcnn.run.step_cost import count_step, measure_step
from tests.engine.tiny import write_recipe


def test_counts_grow_as_they_should(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    one = count_step(recipe, (64, 64), 2, 1)
    four = count_step(recipe, (64, 64), 2, 4)
    large = count_step(recipe, (256, 256), 2, 1)
    parameters = sum(p.numel() for p in recipe.model.build(2).parameters())
    assert one.multiply_adds == four.multiply_adds, "of the whole batch"
    assert one.memory > 3 * 4 * parameters, "weights, gradients and momentum"
    assert four.memory - one.memory == pytest.approx(3 * (one.memory - 3 * 4 * parameters), rel=0.2)
    assert large.memory > one.memory and large.multiply_adds > 2 * (one.multiply_adds or 0)
    half = replace(recipe, solver=replace(recipe.solver, precision="bfloat16"))
    assert count_step(half, (256, 256), 2, 1).memory < large.memory
    (line,) = one.lines(6)
    assert line.startswith("a step takes about 0.0") and line.endswith("(counted; --measure says the time)")


def test_steps_are_measured_on_the_data(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    cost = measure_step(recipe, recipe.data.train.build(True), connect("cpu"), steps=2)
    assert cost.seconds is not None and cost.seconds > 0 and cost.memory > 10**7
    (line,) = cost.lines(6)
    assert " s here, 6 steps " in line and line.endswith("(measured)")


def test_a_step_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path), ["solver.optimizer.lr=1e30", "solver.schedule.warmup_steps=0"]
    )
    with pytest.raises(UserError, match=r"step \d could not be made.*lower solver.optimizer.lr"):
        measure_step(recipe, recipe.data.train.build(True), connect("cpu"), steps=3)
