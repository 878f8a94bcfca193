"""Mask R-CNN R50-FPN on a GPU beside torchvision's: training images/s, inference of one image, host waits.

    python benchmarks/gpu_step.py [--batch 12 16] [--rounds 3] [--steps 8] [--out FILE]
    python benchmarks/gpu_step.py --small        # a minute on a CPU, to see that the script runs

Both models have the same random weights (``benchmarks/parity``), images of 800 x 1333 px with seven objects
each, bfloat16 by autocast and a fused SGD.  Ours is trained by the engine's own step, as it is and with
``solver.compile``; the shipped config's model, whose RoIAlign takes more samples than torchvision's, and
whose masks are polygons.  Batches are made before, in pinned memory, and copied to the GPU in each step: what
loading costs is measured elsewhere.  Inference is that of an evaluation and of ``Predictor``, which replay a
graph for images of a size that comes again; and without that.
Rounds of both alternate; the medians are told.  Waits and copies to the host are counted in a profile of
steps between two readings of the losses.  On a CPU, whose figures say nothing of a GPU and are labelled so,
operators that read a value are counted in their place, and torchvision computes in float32 (its CPU operators
have no bfloat16).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from benchmarks.parity import torchvision as parity
from maskrcnn.engine.distributed import Ranks, choose_device
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.engine.outcomes import Wishes
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.inference.graphs import ReplayedModel
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.recipe import load_recipe
from maskrcnn.run.setup import compile_layers
from maskrcnn.structures import Batch, ImageInfo, InstanceMasks, Sample, Targets, collate
from maskrcnn.structures.padded import pad_targets

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "coco" / "mask_rcnn_r50_fpn_1x.yaml"
#: torchvision's, background included.
LABELS = 91
OBJECTS = 7
#: By name in a profile; on a CPU the operators that hand a value or a number of values to the host.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")


@dataclass(frozen=True)
class Plan:
    """What is measured: images of ``size``, ``rounds`` of ``steps`` steps after ``warm`` of them."""

    device: torch.device
    size: tuple[int, int]
    rounds: int
    steps: int
    warm: int

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def autocast(self, ours: bool = True) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=ours or self.on_gpu)


def samples(count: int, size: tuple[int, int], seed: int) -> list[Sample]:
    """Images of smooth noise, with octagons of log-uniform sides."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        coarse = torch.rand((1, 3, height // 16 + 1, width // 16 + 1), generator=generator) * 255
        image = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].to(torch.uint8)
        side = torch.exp(torch.rand((OBJECTS, 2), generator=generator) * 2.7 + 3.3).clamp(max=min(size) / 2)
        corner = torch.rand((OBJECTS, 2), generator=generator) * (torch.tensor([width, height]) - side)
        boxes = torch.cat((corner, corner + side), dim=1)
        polygons = []
        for x1, y1, x2, y2 in boxes.tolist():
            w, h = (x2 - x1) / 4, (y2 - y1) / 4
            upper = [x1 + w, y1, x2 - w, y1, x2, y1 + h, x2, y2 - h]
            polygons.append([[*upper, x2 - w, y2, x1 + w, y2, x1, y2 - h, x1, y1 + h]])
        labels = torch.randint(0, LABELS - 1, (OBJECTS,), generator=generator)
        masks = InstanceMasks.from_coco(polygons, height, width)
        targets = Targets(boxes, labels, masks, torch.arange(OBJECTS))
        by_pixel = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        found.append(Sample(by_pixel, ImageInfo(number, "", height, width), targets))
    return found


def our_batches(plan: Plan, count: int) -> Iterator[Batch]:
    seeds = list(range(count))
    batches = [collate(samples(count, plan.size, s), seeds, drawn_masks=True) for s in range(3)]
    return itertools.cycle([batch.pin_memory() if plan.on_gpu else batch for batch in batches])


def their_batches(plan: Plan, count: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """The same as torchvision takes them, on the device."""
    prepared = []
    for seed in range(3):
        images, targets = [], []
        for sample in samples(count, plan.size, seed):
            assert sample.targets is not None and sample.targets.masks is not None
            truth, bitmaps = sample.targets, sample.targets.masks.to_bitmaps(*plan.size)
            masks = torch.as_tensor(bitmaps, dtype=torch.uint8)
            images.append(sample.image)
            targets.append({"boxes": truth.boxes, "labels": truth.labels + 1, "masks": masks})
        if plan.on_gpu:
            images = [image.pin_memory() for image in images]
            targets = [{name: value.pin_memory() for name, value in t.items()} for t in targets]
        prepared.append((images, targets))
    for images, targets in itertools.cycle(prepared):
        moved = [image.to(plan.device, non_blocking=True).float() / 255 for image in images]
        yield (
            moved,
            [{n: v.to(plan.device, non_blocking=True) for n, v in t.items()} for t in targets],
        )


def make_models(plan: Plan) -> tuple[MaskRCNN, Any]:
    """The shipped config's model and torchvision's, of the same weights."""
    image = samples(1, (plan.size[0] // 2, plan.size[1] // 2), 9)[0].image
    theirs = parity.their_model(
        *("mask_v1", 50, LABELS, parity.image_batch([image]).tensor, 0),
        min_size=min(plan.size),
        max_size=max(plan.size),
    )
    ours = without_weights(load_recipe(CONFIG).model).build(LABELS - 1)
    ours.load_state_dict(parity.conversion(theirs.state_dict()).state)
    return ours.to(plan.device), theirs.to(plan.device)


def our_step(plan: Plan, model: MaskRCNN, count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """What queues one step, and what reads those that were queued."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4, fused=True)
    strategy = choose_strategy(Ranks(0, 1, 0, plan.device), model.train())
    step = Step(strategy, optimizer, lambda _: 1e-7, seed=0, precision="bfloat16", deferred=True)
    source, numbers = our_batches(plan, count), itertools.count()
    return lambda: step.queue(next(numbers), source, Wishes), step.read


def their_step(plan: Plan, model: Any, count: int) -> Callable[[], object]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-7, momentum=0.9, weight_decay=1e-4, fused=True)
    source = their_batches(plan, count)
    model.train()

    def step() -> None:
        with plan.autocast(ours=False):
            losses = model(*next(source))
        optimizer.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()

    return step


def seconds(plan: Plan, work: Callable[[], object], times: int) -> float:
    """Of one of ``times`` calls, queued one behind the other."""
    plan.wait()
    start = time.perf_counter()
    for _ in range(times):
        work()
    plan.wait()
    return (time.perf_counter() - start) / times


def count_waits(plan: Plan, work: Callable[[], object], steps: int) -> tuple[float, float]:
    """Waits for the device, and copies to the host, a call; on a CPU operators that read values, and 0."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if plan.on_gpu else []
    plan.wait()
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(steps):
            work()
    names = Counter(event.name for event in profile.events() or ())
    # The profile itself waits for the device once, at its end.
    waits = sum(names[name] for name in (WAITS if plan.on_gpu else READS)) - (1 if plan.on_gpu else 0)
    copies = sum(count for name, count in names.items() if name.startswith("Memcpy DtoH"))
    return max(waits, 0) / steps, copies / steps


def waiting_places(work: Callable[[], object]) -> list[str]:
    """Lines of code that make the host wait in one call, by torch's own debug mode, most often first."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    told = [w for w in caught if "synchroniz" in str(w.message) and "debug mode" not in str(w.message)]
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in told)
    return [f"{place} ({count})" for place, count in places.most_common(10)]


def measure_training(plan: Plan, models: dict[str, Any], count: int) -> list[str]:
    """Rows of the table, and what was found besides."""

    def nothing() -> None:
        pass

    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    memory: dict[str, float] = {}
    for name, model in models.items():
        ours = isinstance(model, MaskRCNN)
        works[name] = our_step(plan, model, count) if ours else (their_step(plan, model, count), nothing)
        if plan.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before, start = torch.cuda.memory_allocated() if plan.on_gpu else 0, time.perf_counter()
        for _ in range(plan.warm):
            works[name][0]()
        works[name][1]()
        plan.wait()
        print(f"{name}: the first {plan.warm} steps took {time.perf_counter() - start:.0f} s", flush=True)
        # Of the other models nothing but the weights is on the device.
        own = sum(p.numel() * p.element_size() for p in model.parameters())
        peak = torch.cuda.max_memory_allocated() if plan.on_gpu else 0
        memory[name] = (peak - before + own) / 2**30
        model.zero_grad(set_to_none=True)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(plan.rounds):
        for name, (work, read) in works.items():
            times[name].append(seconds(plan, work, plan.steps))
            read()
            models[name].zero_grad(set_to_none=True)
    waits = {name: count_waits(plan, work, 2) for name, (work, _) in works.items()}
    lines = []
    rates = {name: count / statistics.median(found) for name, found in times.items()}
    for name, rate in rates.items():
        used = f"{memory[name]:.1f} GiB" if plan.on_gpu else "-"
        ratio = f"{rate / rates['torchvision']:.2f}"
        lines.append(
            f"| training, {count} images | {name} | {rate:.4g} images/s | {ratio} | {used} |"
            f" {waits[name][0]:.3g} | {waits[name][1]:.3g} |"
        )
    if plan.on_gpu:
        places = waiting_places(works["ours"][0])
        print("waits of our step, by torch's sync debug mode:", ", ".join(places) or "none", flush=True)
    for _, read in works.values():
        read()
    return lines


@torch.inference_mode()
def measure_inference(plan: Plan, ours: MaskRCNN, theirs: Any) -> list[str]:
    """Rows: from an image of bytes on the device until its detections are there."""
    image = samples(1, plan.size, 5)[0].image.to(plan.device)
    ours.eval()
    theirs.eval()
    counts = {}

    replayed = ReplayedModel(ours)

    def our_call() -> None:
        with plan.autocast():
            (found,) = replayed.predict([image])
        counts["ours"] = len(found)

    def our_plain_call() -> None:
        with plan.autocast():
            (found,) = ours.predict([image])
        counts["ours, not replayed"] = len(found)

    def their_call() -> None:
        with plan.autocast(ours=False):
            (found,) = theirs([image.float() / 255])
        counts["torchvision"] = len(found["boxes"])

    calls = {"ours": our_call, "ours, not replayed": our_plain_call, "torchvision": their_call}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(plan.warm + plan.rounds * plan.steps):
        for name, call in calls.items():
            taken = seconds(plan, call, 1)
            if repeat >= plan.warm:
                times[name].append(taken)
    waits = {name: count_waits(plan, call, 2) for name, call in calls.items()}
    medians = {name: statistics.median(found) for name, found in times.items()}
    return [
        f"| inference, 1 image ({counts[name]} detections) | {name} | {1000 * median:.4g} ms |"
        f" {medians['torchvision'] / median:.2f} | - | {waits[name][0]:.3g} | {waits[name][1]:.3g} |"
        for name, median in medians.items()
    ]


def capture(plan: Plan, model: MaskRCNN, count: int) -> str:
    """Whether the losses of a batch and their gradients can be one CUDA graph, and how long that takes."""
    batch = next(our_batches(plan, count)).to(plan.device)
    seeds = None if batch.seeds is None else batch.seeds.to(plan.device)
    model.train()
    images = model.preprocess(batch.images)
    images = replace(images, given_extents=images.extents)
    targets = pad_targets(batch.targets or [], static=True)

    def work() -> None:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            losses = model.losses_of_batch(images, targets, seeds)
        torch.stack([*losses.values()]).sum().backward()

    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            work()
    except (RuntimeError, ValueError) as error:
        return f"not captured: {str(error).splitlines()[0]}"
    replay = seconds(plan, graph.replay, plan.steps)
    return (
        f"captured; {count / replay:.4g} images/s replayed (no update), {seconds(plan, work, 3):.3g} s before"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[12, 16])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="a round")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--small", action="store_true", help="2 images of 160 x 256 px, one round of a step")
    parser.add_argument("--compile", action="store_true", help="compile ours on a CPU too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = choose_device(args.device)
    if device.type != "cuda" and not args.small:
        print("not run: no GPU (--small runs on a CPU)")
        return
    plan = Plan(device, (args.size[0], args.size[1]), args.rounds, args.steps, warm=4)
    if args.small:
        plan, args.batch = Plan(device, (160, 256), rounds=1, steps=1, warm=1), [2]
    keep_freed_memory()
    where = torch.cuda.get_device_name(device) if plan.on_gpu else "a CPU: figures that say nothing of a GPU"
    counted = "waits a call" if plan.on_gpu else "values read a call"
    lines = [
        f"R50-FPN, {plan.size[0]} x {plan.size[1]} px, bfloat16, torch {torch.__version__}, {where}.",
        "",
        f"| what | whose | speed | times torchvision | peak memory | {counted} | copies to the host a call |",
        "|---|---|---|---|---|---|---|",
    ]
    ours, theirs = make_models(plan)
    models = {"ours": ours, "torchvision": theirs}
    if plan.on_gpu or args.compile:
        models = {"ours": ours, "ours, compiled": copy.deepcopy(ours), "torchvision": theirs}
        compile_layers(models["ours, compiled"], device, sizes=1)
    for count in args.batch:
        rows = measure_training(plan, models, count)
        print(*rows, sep="\n", flush=True)
        lines += rows
    rows = measure_inference(plan, ours, theirs)
    print(*rows, sep="\n", flush=True)
    lines += rows
    graph = capture(plan, ours, args.batch[0]) if plan.on_gpu else "not run: no GPU"
    lines += ["", f"Losses and gradients as one CUDA graph: {graph}"]
    text = "\n".join(lines) + "\n"
    print(f"\n{text}")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
