"""A checkpoint without what only a training needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from maskrcnn import __version__
from maskrcnn.config import dump
from maskrcnn.engine.checkpoint import STRIPPED, Checkpoint, load, save, with_average
from maskrcnn.errors import CheckpointError, UserError, few
from maskrcnn.recipe import Recipe, parse_recipe
from maskrcnn.run.named_weights import local_file
from maskrcnn.run.room import check_file, in_words
from maskrcnn.run.thresholds import read_thresholds, write_thresholds


def load_known(checkpoint: Path, overrides: Sequence[str]) -> tuple[Path, Checkpoint, Recipe]:
    """The file, its content, and its recipe with ``overrides``.

    Args:
        checkpoint: a file, a run's folder (its best), or published weights by name.

    Raises:
        CheckpointError: it cannot be read, or does not say which model and classes it is of.
    """
    path = local_file(checkpoint)
    state = load(path)
    if not state.config or not state.category_ids:
        raise CheckpointError(
            f"{path}: holds no recipe and classes, so its model is not known; take the checkpoint that it was"
            " made from"
        )
    return path, state, parse_recipe(state.config, f"the config in {path}", overrides)


def for_inference(state: Checkpoint, recipe: Recipe, source: Path) -> tuple[Checkpoint, Recipe]:
    """The weights that ``recipe`` evaluates (``eval.ema``), without what a training goes on from.

    Raises:
        CheckpointError: their average is asked for, and there is none.
    """
    if recipe.eval.takes_average:
        state = with_average(state, source)
        recipe = replace(recipe, eval=replace(recipe.eval, ema=False))
    versions = state.versions | {STRIPPED: __version__}
    alone = state.with_states({"model": state.model})
    return replace(alone, config=dump(recipe), versions=versions), recipe


def strip(checkpoint: Path, output: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Write ``checkpoint`` for inference alone, and beside it the scores of its classes.

    Returns:
        what was done, a line each.

    Raises:
        CheckpointError: it cannot be read, or is of no known model.
        UserError: there is such a file, or it cannot be written.
    """
    if output.exists():
        raise UserError(f"--output {output}: is there already; name another file, or remove it first")
    path, before, recipe = load_known(checkpoint, overrides)
    state, _ = for_inference(before, recipe, path)
    check_file(output, "--output")
    output.parent.mkdir(parents=True, exist_ok=True)
    save(state, output)
    sizes = [in_words(file.stat().st_size) for file in (path, output)]
    lines = [f"{path}, {sizes[0]}, is {output}, {sizes[1]}, for inference alone"]
    if state.model is not before.model:
        lines.append("its weights are their average over the steps, which is what was evaluated (eval.ema)")
    if gone := few(name for name, part in before.states.items() if part and name != "model"):
        lines.append(f"left out: {gone}")
    chosen = read_thresholds(path)
    if chosen is not None:
        lines.append(f"scores by class in {write_thresholds(output, chosen)}")
    return lines
