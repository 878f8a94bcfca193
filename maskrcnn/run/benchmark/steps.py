"""Training steps by the clock: where their time goes, and how much they compute."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn.data import Dataset
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.memory import memory_in_use
from maskrcnn.engine.step import Step
from maskrcnn.files import copy_file
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe
from maskrcnn.run.benchmark.figures import PARTS, Tell
from maskrcnn.run.step_cost import make_steps, queue_step, read_steps, take_step
from maskrcnn.structures import Batch


@dataclass(frozen=True)
class TimedSteps:
    """seconds: of each.  parts: seconds of all by ``PARTS``.  sizes: (height, width) of their images.

    flops: of one, on this rank.  memory: bytes, as ``memory_in_use`` says them.  busy: share of a step in
    which the GPU works; None on a CPU.
    """

    seconds: list[float]
    parts: dict[str, float]
    sizes: list[tuple[int, int]]
    flops: int
    memory: int
    busy: float | None


def measure_steps(
    recipe: Recipe,
    model: MaskRCNN,
    train: Dataset,
    ranks: Ranks,
    *,
    steps: int,
    profile: Path | None,
    tell: Tell,
) -> TimedSteps:
    """Make ``steps`` steps with a learning rate of 0, after a few that are not timed.

    Args:
        profile: also write a trace of one more step there.

    Raises:
        UserError: a step cannot be made, the trace not be written.
    """
    cuda = ranks.device.type == "cuda"
    uncounted = 3 if cuda or recipe.solver.compile else 1
    more = (steps if cuda else 0) + (1 if profile is not None or cuda else 0)
    step, batches = make_steps(recipe, model, train, ranks, uncounted + steps + more)
    step.rate = lambda number: 0.0
    step.strategy.module.train()
    if recipe.data.cache != "none":
        tell("filling the cache")
        for _ in batches:
            pass
    clock = Clock(step, ranks.device)
    with closing(iter(batches)) as source:  # type: ignore[type-var]
        given = clock.timed(source)
        tell(f"step 1 of {uncounted} that are not timed")
        flops = _counted(lambda: take_step(step, 0, given))
        for number in range(1, uncounted):
            tell(f"step {number + 1} of {uncounted} that are not timed")
            take_step(step, number, given)
        seconds = _time(step, given, range(uncounted, uncounted + steps), clock, tell)
        if cuda:  # once more, now waiting for the GPU wherever a part ends
            clock.waits = True
            _time(step, given, range(uncounted + steps, uncounted + 2 * steps), clock, tell)
        parts, sizes = dict(clock.parts), list(clock.sizes)
        memory, busy = memory_in_use(ranks.device), None
        if profile is not None or cuda:
            clock.waits = False
            tell("profiling a step")
            busy = _profile(lambda: take_step(step, uncounted + steps + more - 1, given), profile, cuda)
    return TimedSteps(seconds, parts, sizes, flops, memory, busy)


class Clock:
    """Adds up the seconds of each part of a step, and notes the sizes of its images.

    waits: whether a part ends when the GPU is done with it; else when it is queued.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self.waits = False
        self.parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.sizes: list[tuple[int, int]] = []
        self._device, self._part, self._since = device, "rest", time.perf_counter()
        step.strategy.module.register_forward_pre_hook(lambda *_: self.enter("forward"))
        step.strategy.module.register_forward_hook(lambda *_: self.enter("backward"))
        step.optimizer.register_step_pre_hook(lambda *_: self.enter("optimizer"))
        step.optimizer.register_step_post_hook(lambda *_: self.enter("rest"))

    def enter(self, part: str) -> None:
        """What runs from now on."""
        if self.waits:
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.parts[self._part] += now - self._since
        self._part, self._since = part, now

    def reset(self) -> None:
        """Forget what was added up."""
        self.enter("rest")
        self.parts, self.sizes = dict.fromkeys(PARTS, 0.0), []

    def timed(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the wait for them is the part ``data``."""
        while True:
            before = self._part
            self.enter("data")
            try:
                batch = next(source)
            except StopIteration:
                return
            finally:
                self.enter("rest" if before == "optimizer" else before)
            self.sizes += [(image.shape[1], image.shape[2]) for image in batch.images]
            yield batch


def _time(step: Step, source: Iterator[Batch], numbers: range, clock: Clock, tell: Tell) -> list[float]:
    """Seconds of each step; a GPU is waited for before the first and after the last alone."""
    wait: Callable[[], object] = torch.cuda.synchronize if step.ranks.device.type == "cuda" else lambda: None
    wait()
    clock.reset()
    marks = [time.perf_counter()]
    for place, number in enumerate(numbers, start=1):
        queue_step(step, number, source)
        if place == len(numbers):
            read_steps(step)
            wait()
        marks.append(time.perf_counter())
        tell(f"timed step {place} of {len(numbers)}: {marks[-1] - marks[-2]:.3g} s")
    clock.enter("rest")
    return [b - a for a, b in itertools.pairwise(marks)]


def _counted(work: Callable[[], object]) -> int:
    """Floating-point operations of ``work``, which runs without compiling."""
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        work()
    return int(counter.get_total_flops())


def _profile(work: Callable[[], object], file: Path | None, cuda: bool) -> float | None:
    """Share of ``work`` in which the GPU works, None on a CPU; its trace goes to ``file``."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=kinds) as profiler:
        began = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    if file is not None:
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / f"trace{''.join(file.suffixes[-2:])}"
            profiler.export_chrome_trace(str(trace))
            copy_file(trace, file)
    if not cuda:
        return None
    # Kernels of one stream do not overlap, and there is one.
    works = float(sum(event.self_device_time_total for event in profiler.key_averages()))
    return min(works / 1e6 / seconds, 1.0)
