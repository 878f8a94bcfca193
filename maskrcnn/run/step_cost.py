"""What a training step takes: counted without memory or data, or measured by making a few."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.data.interfaces import Dataset
from maskrcnn.data.loader import BatchLoader
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.events import format_seconds
from maskrcnn.engine.memory import memory_in_use
from maskrcnn.engine.outcomes import NotMadeError, Wishes
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.errors import UserError, plural
from maskrcnn.modeling.mask_rcnn import MaskRCNN, without_weights
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.flops import count_cost, run_parts
from maskrcnn.run.room import checkpoint_bytes, in_words
from maskrcnn.structures import Batch
from maskrcnn.structures.seeds import seed_everything

#: Forward, and backward for the input and the weights of each layer.
_PASSES = 3


@dataclass(frozen=True)
class StepCost:
    """multiply_adds: of a step; None where it was measured.  memory: bytes at the peak.

    seconds: a step; None where it was not measured.
    """

    memory: int
    multiply_adds: int | None = None
    seconds: float | None = None

    def lines(self, steps: int) -> list[str]:
        """In words, for a training of so many steps."""
        if self.multiply_adds is not None:
            time, how = (
                f"about {self.multiply_adds / 1e9:,.3g} G multiply-adds",
                "counted; --measure says the time",
            )
        else:
            assert self.seconds is not None
            whole = format_seconds(self.seconds * steps)
            time, how = f"{self.seconds:.3g} s here, {plural(steps, 'step')} {whole}", "measured"
        return [f"a step takes {time}, and {in_words(self.memory)} of memory ({how})"]


def count_step(recipe: Recipe, size: tuple[int, int], num_classes: int, per_pass: int) -> StepCost:
    """Counted on the meta device, at images of ``size`` (height, width) in the network frame.

    Weights, their gradients and the optimizer's states, the images, and what the layers keep for the backward
    pass; what the operators and allocators need besides is not known.

    Raises:
        ConfigError: the parts of the model do not fit.
    """
    model, roi = recipe.model, recipe.model.roi
    positives = int(roi.samples * roi.positive_fraction)
    flops = count_cost(model, num_classes, size, roi.samples, positives).flops
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        held.append(tensor)  # so that no storage takes the place of another
        return tensor

    held: list[Tensor] = []
    with torch.device("meta"):
        built = without_weights(model).build(num_classes)
        parameters = {p.untyped_storage()._cdata for p in built.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            run_parts(built, model.preprocess.size_divisor, size, roi.samples, positives)
    activations = sum(size for storage, size in kept.items() if storage not in parameters)
    if recipe.solver.precision != "float32":
        activations //= 2
    optimizer = recipe.solver.optimizer.build(built, recipe.solver.learning_rate)
    gradients = sum(p.numel() * p.element_size() for p in built.parameters() if p.requires_grad)
    fixed = checkpoint_bytes(built, optimizer) + gradients
    images = model.num_channels * 4 * size[0] * size[1]
    return StepCost(
        memory=fixed + per_pass * (activations + images),
        multiply_adds=_PASSES * flops * recipe.solver.batch_size,
    )


def make_steps(
    recipe: Recipe, model: MaskRCNN, train: Dataset, ranks: Ranks, steps: int
) -> tuple[Step, BatchLoader]:
    """What makes a training's steps, and the batches of the first ``steps`` of them."""
    solver = recipe.solver
    step = Step(
        choose_strategy(ranks, model),
        solver.optimizer.build(model, solver.learning_rate),
        solver.rate_at,
        seed=recipe.seed,
        precision=solver.precision,
        accumulate=solver.accumulate,
        clip_grad_norm=solver.clip_grad_norm,
    )
    return step, setup.train_batches(train, recipe, ranks, range(steps))


def take_step(step: Step, number: int, source: Iterator[Batch]) -> None:
    """Step ``number``, from 0, with the next batches of ``source``, and the wait for its figures.

    Raises:
        UserError: it cannot be made.
    """
    queue_step(step, number, source)
    read_steps(step)


def queue_step(step: Step, number: int, source: Iterator[Batch]) -> None:
    """:func:`take_step` without the wait, as a training does it: on a GPU figures are read now and then.

    Raises:
        UserError: it cannot be made.
    """
    if step.full:
        read_steps(step)
    with _told(number):
        step.queue(number, source, Wishes)


def read_steps(step: Step) -> None:
    """Wait for the steps that were queued.

    Raises:
        UserError: one of them was not made.
    """
    with _told(None):
        step.read()


@contextmanager
def _told(number: int | None) -> Iterator[None]:
    try:
        yield
    except NotMadeError as error:
        place = getattr(error, "step", number)
        which = "a step" if place is None else f"step {place + 1}"
        raise UserError(f"{which} could not be made ({type(error).__name__}): {_why(error)}") from None


def measure_step(recipe: Recipe, train: Dataset, ranks: Ranks, steps: int = 3) -> StepCost:
    """Measured by making that many steps and one before, whose time does not count; nothing is written.

    Raises:
        UserError: a step cannot be made; an image cannot be read.
    """
    seed_everything(recipe.seed, deterministic=recipe.solver.deterministic)
    model = setup.place_model(recipe, len(train.categories), ranks.device)
    step, batches = make_steps(recipe, model, train, ranks, steps + 1)
    cuda = ranks.device.type == "cuda"
    wait: Callable[[], object] = torch.cuda.synchronize if cuda else lambda: None
    seconds = []
    with closing(iter(batches)) as source:  # type: ignore[type-var]
        for number in range(steps + 1):
            began = time.perf_counter()
            take_step(step, number, source)
            wait()
            seconds.append(time.perf_counter() - began)
    return StepCost(memory_in_use(ranks.device), seconds=statistics.median(seconds[1:]))


def _why(error: NotMadeError) -> str:
    what = getattr(error, "what", None)
    if what:
        return f"{', '.join(what)}; lower solver.optimizer.lr, or mend the data"
    return "lower solver.batch_size, or raise solver.accumulate"
