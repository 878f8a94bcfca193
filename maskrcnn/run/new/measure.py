"""The images a step and the precision that this machine does best with, found by making steps.

Each try is a process of its own, so that the memory of one does not count for the next, and one that is
killed for its memory is an answer.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from maskrcnn.engine.distributed import connect
from maskrcnn.engine.memory import free_memory, peak_memory
from maskrcnn.errors import UserError, plural
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.room import in_words
from maskrcnn.run.step_cost import measure_step

#: Half precision is taken where a step is at least this much faster.
_FASTER = 0.9


@dataclass(frozen=True)
class Measured:
    """batch: images a step.  seconds: a step.  memory: bytes at the peak.  told: how it was found.

    precision: as ``solver.precision``; compared: what is said of the choice.
    """

    batch: int
    seconds: float
    memory: int
    precision: str
    told: str
    compared: str


def measure(
    config: Path,
    settings: Sequence[str],
    most: int,
    share: float,
    *,
    batch: int | None,
    precision: str | None,
    tell: Callable[[str], object],
) -> Measured:
    """
    Args:
        config, settings: the config, and keys in place of its own.
        most: images a step at most.
        share: of the memory that is free now, for a training.
        batch, precision: those that were asked for; None: found out.

    Raises:
        UserError: not even a step of one image can be made.
    """
    recipe = load_recipe(config, settings)
    cuda = connect(recipe.device).device.type == "cuda"
    limit = int(share * free_memory(cuda=cuda))
    kind = precision or "float32"
    tries: list[tuple[int, float, int]] = []
    why = f"more than {most} are not tried"
    size = batch or 1
    while True:
        if len(tries) > 1:
            need = tries[-1][2] + 2 * (tries[-1][2] - tries[-2][2])  # each image takes as much
            if need > limit:
                why = f"{size} would take about {in_words(need)}"
                break
        tell(f"measuring a step of {size} image{'s' * (size > 1)}")
        found = _try(config, [*settings, f"solver.batch_size={size}", f"solver.precision={kind}"])
        if isinstance(found, str):
            if not tries:
                raise UserError(f"{config}: a step of {plural(size, 'image')} cannot be made here: {found}")
            why = f"{size} failed: {found}"
            break
        if found[1] > limit and tries:
            why = f"{size} take {in_words(found[1])}"
            break
        tries.append((size, *found))
        if batch is not None or 2 * size > most:
            break
        size *= 2
    size, seconds, memory = tries[-1]
    compared = "as it was asked for" if precision else ""
    if precision is None:
        other = "bfloat16"
        tell(f"measuring it in {other}")
        found = _try(config, [*settings, f"solver.batch_size={size}", f"solver.precision={other}"])
        if isinstance(found, str):
            compared = f"{other} failed: {found}"
        else:
            compared = f"a step takes {found[0]:.2f} s in {other}, {seconds:.2f} s in float32"
            if found[0] < _FASTER * seconds:
                kind, seconds, memory = other, *found
    steps = ", ".join(f"{n}: {s:.2f} s, {in_words(m)}" for n, s, m in tries)
    asked = "as it was asked for" if batch else why
    told = f"Measured here in float32 (images a step: time, memory): {steps}; {asked}, of {in_words(limit)}."
    return Measured(size, seconds, memory, kind, told, compared)


def _try(config: Path, settings: Sequence[str]) -> tuple[float, int] | str:
    """Seconds a step and bytes at the peak, of a process of its own; or why not."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, config, list(settings)))
    process.start()
    theirs.close()
    try:
        found: tuple[float, int] | str = ours.recv()
    except EOFError:
        process.join()
        found = f"it ended with {process.exitcode}" + (" (killed)" if process.exitcode == -9 else "")
    finally:
        if process.is_alive():
            process.join(10)
        process.kill()
        process.join()
        ours.close()
    return found


def _child(pipe: Connection, config: Path, settings: list[str]) -> None:
    logging.disable(logging.WARNING)
    try:
        recipe = load_recipe(config, settings)
        ranks = connect(recipe.device)
        train = recipe.data.build(recipe.data.train, True)
        cost = measure_step(_bare(recipe), train, ranks, steps=2)
        peak = cost.memory if ranks.device.type == "cuda" else peak_memory()
        assert cost.seconds is not None
        pipe.send((cost.seconds, peak))
    except (UserError, MemoryError, RuntimeError) as error:
        pipe.send(str(error).splitlines()[0] if str(error) else type(error).__name__)


def _bare(recipe: Recipe) -> Recipe:
    """Time and memory do not depend on the weights, which are not fetched for this."""
    return replace(recipe, weights=None, model=without_weights(recipe.model))
