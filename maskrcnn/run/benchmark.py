"""What a config's training and evaluation take on a machine, and what holds them up; nothing is learnt."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn.data import Dataset, apply_transforms
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.memory import free_memory, keep_freed_memory, memory_in_use
from maskrcnn.engine.optim import freeze
from maskrcnn.engine.step import Step
from maskrcnn.errors import UserError
from maskrcnn.files import copy_file
from maskrcnn.inference.loop import predict_dataset
from maskrcnn.modeling.mask_rcnn import MaskRCNN, without_weights
from maskrcnn.modeling.precision import Precision, autocast
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.image_caching import needed
from maskrcnn.run.named_weights import is_name, publisher_of, weight_keys, with_local_weights
from maskrcnn.run.preflight import Start, run_checks
from maskrcnn.run.room import in_words
from maskrcnn.run.step_cost import make_steps, queue_step, read_steps, take_step
from maskrcnn.run.training import BEGINNINGS, CACHES
from maskrcnn.structures import Batch
from maskrcnn.structures.seeds import seed_everything
from maskrcnn.viz.tables import Table

#: Parts of a step's time, in the order in which they are told; ``rest``: what is between them.
PARTS = ("data", "forward", "backward", "optimizer", "rest")
#: A step waits for its images where they take more than this share of it.
_DATA_BOUND = 0.1
#: The host holds a GPU up where that works for less than this share of a step.
_BUSY = 0.8
#: Images that are loaded to see what loading takes, and images that are evaluated without being counted.
_LOADED, _UNCOUNTED = 8, 2
#: Seconds that the peak is looked for, by each kind of product.
_PEAK_SECONDS = 0.5

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Loading:
    """Of an image, in seconds of one core.  read: read and decoded.  changed: transformed, and the rest."""

    read: float
    changed: float


@dataclass(frozen=True)
class Evaluating:
    """images: that were evaluated, without computing figures.  rate: of them a second.  found: objects an
    image; seconds: for all of ``data.val`` at that rate.
    """

    images: int
    rate: float
    found: float
    seconds: float


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    device, threads, workers, precision, weights: under which conditions.
    batch: images a step, over ``ranks`` processes.  size: median (height, width) of them, network frame.
    steps: that were timed.  seconds: of one, the median.  rate: images a second, of all steps together.
    parts: seconds of a step by :data:`PARTS`, the means.
    busy: share of a step in which the GPU works; None on a CPU.
    flops: floating-point operations of a step, those of convolutions and matrix products: a multiply-add is
        two.  RoI operators, NMS and what is done value by value are not counted.
    peak: the most of them a second that a convolution or a matrix product reaches here, in this precision.
    memory: bytes, as ``memory_in_use`` says them.
    """

    device: str
    threads: int
    workers: int
    precision: str
    weights: str
    ranks: int
    batch: int
    size: tuple[int, int]
    steps: int
    seconds: float
    rate: float
    parts: dict[str, float]
    busy: float | None
    flops: int
    peak: float
    memory: int
    loading: Loading
    evaluation: Evaluating | None
    advice: str = ""

    @property
    def share_of_peak(self) -> float:
        """How much of the peak a step reaches, without its wait for images, in [0, 1]."""
        return self.flops / max(self.seconds - self.parts["data"], 1e-9) / self.peak / self.ranks

    def as_json(self) -> dict[str, Any]:
        """All of it; times in seconds, memory in bytes."""
        return asdict(self) | {"share_of_peak": self.share_of_peak}

    def lines(self) -> list[str]:
        """In words."""
        height, width = self.size
        total, loading = sum(self.parts.values()), self.loading
        rows = [
            (
                "on",
                f"{self.device}, {self.precision}, {self.threads} threads, {self.workers} workers",
            ),
            ("weights", self.weights),
            ("training", f"{self.rate:.3g} images/s, {self.batch} a step, median {width} x {height}"),
            ("memory", in_words(self.memory)),
            ("arithmetic", f"{self.flops / 1e12:.3g} TFLOP a step (convolutions and matrix products alone)"),
            ("of the peak", f"{self.share_of_peak:.1%} of {self.peak / 1e12:.3g} TFLOP/s, as measured here"),
            ("to read", f"{1e3 * loading.read:.3g} ms of a core an image, with decoding"),
            ("to transform", f"{1e3 * loading.changed:.3g} ms of a core an image"),
        ]
        if self.busy is not None:
            rows.append(("GPU", f"at work for {self.busy:.0%} of a step"))
        if self.evaluation is not None:
            e = self.evaluation
            rows += [
                (
                    "evaluation",
                    f"{e.rate:.3g} images/s ({e.images} images, {e.found:.3g} objects in each)",
                ),
                ("data.val", f"{e.seconds:.3g} s at that rate, and the figures besides"),
            ]
        parts = [(name, f"{self.parts[name]:.3g}", f"{self.parts[name] / total:.1%}") for name in PARTS]
        parts.append(("median step", f"{self.seconds:.3g}", ""))
        title = f"A step, the mean of {self.steps}"
        return [
            *Table(("measured", ""), rows, left=(0, 1)).text().splitlines(),
            "",
            *Table(("part", "seconds", "share"), parts, title=title).text().splitlines(),
            "",
            self.advice,
        ]


def benchmark(recipe: Recipe, ranks: Ranks, *, steps: int, profile: Path | None, tell: Tell) -> Benchmark:
    """Make ``steps`` steps with a learning rate of 0, and evaluate as many images.

    Args:
        profile: also write a trace of one more step there, for chrome://tracing or ui.perfetto.dev.
        tell: takes progress.

    Raises:
        UserError: data cannot be read, a step cannot be made, the trace not be written.
    """
    keep_freed_memory()
    recipe = replace(recipe, train=replace(recipe.train, check_data="none"))
    seed_everything(recipe.seed, deterministic=recipe.solver.deterministic)
    tell("reading the data")
    data = setup.build_data(recipe, ranks)
    if recipe.data.cache != "none":
        CACHES.get(recipe.data.cache)(recipe, data, ranks, tell)
    model, weights = _model(recipe, data.train, ranks, tell)
    freeze(model, recipe.solver.freeze)
    console = setup.new_console(ranks)
    with closing(console):
        start = Start(recipe, ranks, console, "data.train", data.train, model=model)
        run_checks([("workers", start), ("batch", start)], "before the first step")
    cuda = ranks.device.type == "cuda"
    uncounted = 3 if cuda or recipe.solver.compile else 1
    more = (steps if cuda else 0) + (1 if profile is not None or cuda else 0)
    step, batches = make_steps(recipe, model, data.train, ranks, uncounted + steps + more)
    step.rate = lambda number: 0.0
    step.strategy.module.train()
    if recipe.data.cache != "none":
        tell("filling the cache")
        for _ in batches:
            pass
    clock = _Clock(step, ranks.device)
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
    tell("measuring the peak")
    peak = measure_peak(ranks.device, recipe.solver.precision)
    total, batch = sum(seconds), recipe.solver.batch_size
    found = Benchmark(
        device=torch.cuda.get_device_name(ranks.device) if cuda else "CPU",
        threads=torch.get_num_threads(),
        workers=setup.worker_count(recipe, ranks),
        precision=recipe.solver.precision,
        weights=weights,
        ranks=ranks.size,
        batch=batch,
        size=(int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes]))),
        steps=steps,
        seconds=statistics.median(seconds),
        rate=batch * steps / total,
        parts={name: parts[name] / steps for name in PARTS},
        busy=busy,
        flops=flops * ranks.size,
        peak=peak,
        memory=memory,
        loading=measure_loading(recipe, data.train),
        evaluation=None if data.val is None else _evaluate(recipe, model, data.val, ranks, steps, tell),
    )
    return replace(found, advice=advise(found, recipe, data))


def _model(recipe: Recipe, train: Dataset, ranks: Ranks, tell: Tell) -> tuple[MaskRCNN, str]:
    """With the weights that the recipe begins with, where their files are here; and what to call them."""
    keys = weight_keys(recipe)
    here = [not publisher_of(p).outlook(p.as_posix()) if is_name(p) else p.exists() for _, p in keys]
    if not keys or not all(here):
        why = " (those of the config are not on this machine)" if keys else ""
        bare = replace(recipe, weights=None, model=without_weights(recipe.model))
        return setup.place_model(bare, len(train.categories), ranks.device), f"random{why}"
    tell("reading the weights")
    local = with_local_weights(recipe)
    model = setup.place_model(local, len(train.categories), ranks.device)
    BEGINNINGS.get("weights")(model, recipe, local.weights, train.categories)
    return model, ", ".join(str(path) for _, path in keys)


class _Clock:
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


def _time(step: Step, source: Iterator[Batch], numbers: range, clock: _Clock, tell: Tell) -> list[float]:
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


@torch.no_grad()
def measure_peak(device: torch.device, precision: Precision) -> float:
    """Floating-point operations a second of the faster of a 3x3 convolution and a matrix product."""
    cuda = device.type == "cuda"
    images, side = (64, 8192) if cuda else (2, 1536)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    x = torch.randn(images, 256, 96, 96, device=device, dtype=kind).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=kind).to(memory_format=torch.channels_last)
    square = torch.randn(side, side, device=device, dtype=kind)
    wait: Callable[[], object] = torch.cuda.synchronize if cuda else lambda: None
    best = 0.0
    with autocast(device, "float32"):
        for work, flops in (
            (lambda: torch.nn.functional.conv2d(x, weight, padding=1), 2 * 9 * 256 * 256 * images * 96 * 96),
            (lambda: square @ square, 2 * side**3),
        ):
            work()
            wait()
            end = time.perf_counter() + _PEAK_SECONDS
            while (began := time.perf_counter()) < end:
                work()
                wait()
                best = max(best, flops / (time.perf_counter() - began))
    return best


@contextmanager
def _one_thread() -> Iterator[None]:
    threads, others = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(others)


def measure_loading(recipe: Recipe, dataset: Dataset) -> Loading:
    """By a few images over the whole set; those that cannot be read are passed over."""
    transforms = setup.build_transforms(recipe, training=True)
    read, changed = [], []
    cache, where = getattr(dataset, "cache", None), np.linspace(0, len(dataset) - 1, _LOADED).astype(int)
    if cache is not None:
        dataset.cache = None  # type: ignore[attr-defined]
    with _one_thread():
        for place in [int(where[0]), *where.tolist()]:  # the first one twice: what it sets up does not count
            began = time.thread_time()
            try:
                sample = dataset.load(place)
            except UserError:
                continue
            middle = time.thread_time()
            apply_transforms(transforms, sample, np.random.default_rng(place)).to_sample()
            read.append(middle - began)
            changed.append(time.thread_time() - middle)
    if cache is not None:
        dataset.cache = cache  # type: ignore[attr-defined]
    if len(read) < 2:
        return Loading(math.nan, math.nan)
    return Loading(statistics.median(read[1:]), statistics.median(changed[1:]))


def _evaluate(
    recipe: Recipe, model: MaskRCNN, val: Dataset, ranks: Ranks, steps: int, tell: Tell
) -> Evaluating:
    """Predict some images of ``data.val``, masks and all, as an evaluation does; it computes no figures."""

    def predict(images: int) -> tuple[int, float]:
        began = time.perf_counter()
        records = predict_dataset(
            model,
            setup.eval_batches(val, recipe, ranks, images * ranks.size),
            ranks.device,
            val.categories,
            precision=recipe.eval.precision,
            paste=recipe.eval.paste,
            keypoint_offset=recipe.eval.keypoint_offset,
        )
        return len(records), time.perf_counter() - began

    share = len(val) // ranks.size
    count = max(min(max(steps * recipe.solver.batch_size // ranks.size, 1), share, 50), 1)
    tell(f"evaluating {count} images")
    predict(min(_UNCOUNTED, count))
    found, seconds = predict(count)
    rate = count * ranks.size / seconds
    return Evaluating(count * ranks.size, rate, found / count, len(val) / rate)


def advise(found: Benchmark, recipe: Recipe, data: setup.Data) -> str:
    """What holds a training up, and what to change; a sentence."""
    total = sum(found.parts.values())
    share = found.parts["data"] / total
    if share > _DATA_BOUND:
        return (
            f"data bound: {share:.0%} of a step is the wait for images;"
            f" {_more_images(found, recipe, data, found.seconds - found.parts['data'])}"
        )
    if found.busy is not None and found.busy < _BUSY:
        ways = ["a larger solver.batch_size"]
        if not recipe.solver.compile:
            ways.insert(0, "solver.compile: true")
        return (
            f"host bound: the GPU works for {found.busy:.0%} of a step, and waits for the host else; try"
            f" {' and '.join(ways)}"
        )
    what = max(PARTS[1:4], key=lambda name: found.parts[name])
    half = "; solver.precision: bfloat16 may be faster" if found.precision == "float32" else ""
    return f"compute bound: images are there in time, and the {what} pass takes most{half}"


def _more_images(found: Benchmark, recipe: Recipe, data: setup.Data, step: float) -> str:
    """What to do about images that come too late, for a step that takes ``step`` seconds without them."""
    loading, cores = found.loading, os.cpu_count() or 1
    an_image = loading.read + loading.changed
    ways = []
    wanted = math.ceil(found.batch / found.ranks * an_image / step) + 1 if an_image == an_image else 1
    most = max(cores // found.ranks - (1 if found.device == "CPU" else 0), 1)
    if found.workers < min(wanted, most):
        ways.append(f"set data.workers to {min(wanted, most)} (now {found.workers}; {wanted} would keep up)")
    if recipe.data.cache == "none" and loading.read > loading.changed / 4:
        sets: list[Any] = [part for part in (data.train, data.val) if part is not None]
        if all(hasattr(part, "cache") for part in sets):
            size = sum(int(needed(recipe, part).sum()) for part in sets)
            kind = "ram" if size < free_memory(cuda=False) / 2 else "disk"
            ways.append(
                f"set data.cache to {kind} (reading and decoding are {loading.read / an_image:.0%} of the"
                f" loading, and the decoded images take {in_words(size)})"
            )
    larger = np.median(np.asarray(data.train.sizes).max(1)) > 1.5 * max(found.size)
    if larger:
        ways.append("store the images smaller: they are shrunk on loading")
    if not ways:
        ways.append("use fewer or simpler data.train_transforms, or a machine with more cores")
    return "; ".join(ways)
