"""A training step and an inference on a CPU beside torchvision's, and where the time goes.

    python benchmarks/model.py [--models r18 r50] [--precisions float32 bfloat16] [--repeats 5] [--threads 2]
                               [--clock wall]

``r18`` is ``configs/nuclei`` (ResNet-18 FPN with group norm, 4 images of 256 px, 31 objects each), ``r50``
the COCO recipe (2 images of 800 x 1066 px, 7 objects each; inference of one).  Images are generated, both
models have the same sizes and thresholds, torchvision computes in float32 (its CPU operators have no
bfloat16), and both keep freed memory, as our trainer does.  Each pair of model and precision is a process of
its own, in which the two and the kernels alternate; medians after one round that is not counted, of the
ratios within each round as well.  On a machine with other work
``--threads 1 --clock process`` counts the time of this process alone.

``kernels`` is the time that the same convolutions and matrix products take alone, one by one: convolutions as
measured, matrix products as their operations at the speed of the convolutions.  ``times`` is ours over that.
The table behind it splits ours by kinds of operators, from torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
ATEN = torch.ops.aten
#: As they are seen below autograd, and in inference mode, where they are not taken apart.
CONVOLUTIONS = (
    *(ATEN.convolution.default, ATEN.convolution_backward.default),
    *(ATEN.conv2d.default, ATEN.conv_transpose2d.input),
)
PRODUCTS = (ATEN.addmm.default, ATEN.mm.default, ATEN.bmm.default, ATEN.linear.default)
#: Kinds of operators by the beginnings of their names in a profile; the first that fits.
KINDS = {
    "convolution": (
        "aten::mkldnn_convolution",
        "aten::convolution",
        "aten::_convolution",
        "aten::_slow_conv",
        "mkldnn::_convolution",
    ),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_linear", "mkldnn::_linear"),
    "RoI operators": ("maskrcnn::roi",),
    "NMS, matching, mask targets": ("maskrcnn::",),
    "normalisation": ("aten::native_group_norm", "aten::native_batch_norm", "aten::group_norm"),
    "ReLU and sums": (
        "aten::clamp_min",
        "aten::relu",
        "aten::threshold",
        "aten::add",
        "aten::mul",
        "aten::sum",
    ),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::clone", "aten::stack"),
    "sorting and choosing": ("aten::sort", "aten::topk", "aten::index", "aten::gather", "aten::nonzero"),
    "optimizer": ("aten::_fused_sgd",),
    "memory": ("aten::empty", "aten::fill_", "aten::zero_", "aten::resize_"),
}


CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


@dataclass
class Work:
    """One thing to be timed: ours and torchvision's, by name."""

    what: str
    ours: Callable[[], object]
    theirs: Callable[[], object]


class Recorder(TorchDispatchMode):
    """Counts the convolutions and matrix products that run, by their arguments but for the values."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in CONVOLUTIONS or func in PRODUCTS:
            self.calls[func, tuple(_described(value) for value in args)] += 1
        return func(*args, **(kwargs or {}))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), tuple(value.stride()), value.dtype)
    return tuple(value) if isinstance(value, list) else value


def _made(value: Any) -> Any:
    """An argument like the one described."""
    if isinstance(value, tuple) and value and value[0] == "tensor":
        _, shape, strides, dtype = value
        found = torch.empty_strided(shape, strides, dtype=dtype)
        return found.copy_(torch.randn(shape))
    return list(value) if isinstance(value, tuple) else value


class Kernels:
    """The convolutions and matrix products that were recorded, to be called alone."""

    def __init__(self, calls: Counter[tuple[Any, ...]]) -> None:
        self.convolutions: list[tuple[Any, list[Any], int]] = []
        flops = {True: 0, False: 0}
        for (function, described), count in calls.items():
            args = [_made(value) for value in described]
            with FlopCounterMode(display=False) as counter:
                function(*args)
            is_convolution = function in CONVOLUTIONS
            flops[is_convolution] += counter.get_total_flops() * count
            if is_convolution:
                self.convolutions.append((function, args, count))
        #: Operations of the convolutions.
        self.operations = flops[True]
        #: All operations over those of the convolutions.
        self.more = 1 + flops[False] / flops[True]

    def seconds(self, clock: Callable[[], float]) -> float:
        """What all convolutions take, each distinct one called once, matrix products at their speed."""
        total = 0.0
        for function, args, count in self.convolutions:
            start = clock()
            function(*args)
            total += (clock() - start) * count
        return total * self.more


def shares(work: Callable[[], object], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of a call by kinds of operators; ``the rest``: what no name fits, and Python between them."""
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        start = clock()
        for _ in range(repeats):
            work()
        seconds = (clock() - start) / repeats
    found: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), None)
        if kind is not None:
            found[kind] += event.self_cpu_time_total / 1e6 / repeats
    found["the rest"] = max(0.0, seconds - sum(found.values()))
    return dict(found)


@contextmanager
def precision_of(name: str, precision: str) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "ours" and precision == "bfloat16"):
        yield


def nuclei_pair(precision: str) -> tuple[Any, Any, list[Any], Any]:
    """Both models, samples to train on, and the function that makes torchvision's batch of ours."""
    from benchmarks.nuclei import CONFIG, torchvision_batch, torchvision_model
    from maskrcnn.recipe import load_recipe
    from maskrcnn.structures import ImageInfo, InstanceMasks, Sample, Targets

    recipe = load_recipe(CONFIG)
    generator = torch.Generator().manual_seed(0)

    def instances() -> Targets:
        corners = torch.rand(31, 2, generator=generator) * 210
        boxes = torch.cat((corners, corners + torch.rand(31, 2, generator=generator) * 25 + 10), dim=1)
        polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
        masks = InstanceMasks.from_coco(polygons, 256, 256)
        return Targets(boxes, torch.zeros(31, dtype=torch.int64), masks, torch.arange(31))

    samples = [
        Sample(
            torch.randint(0, 255, (256, 256, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1),
            ImageInfo(i, "", 256, 256),
            instances(),
        )
        for i in range(4)
    ]
    torch.manual_seed(0)
    ours = recipe.model.build(1)
    torch.manual_seed(0)
    return ours, torchvision_model(recipe, 1), samples, torchvision_batch


def coco_pair(precision: str) -> tuple[Any, Any, list[Any], Any]:
    from benchmarks import gpu_step
    from benchmarks.nuclei import torchvision_batch

    plan = gpu_step.Plan(torch.device("cpu"), (800, 1066), 1, 1, 1)
    ours, theirs = gpu_step.make_models(plan)
    return ours, theirs, gpu_step.samples(2, plan.size, 0), torchvision_batch


PAIRS = {"r18": nuclei_pair, "r50": coco_pair}


def works(model: str, precision: str) -> list[Work]:
    from maskrcnn.structures import collate

    ours, theirs, samples, as_theirs = PAIRS[model](precision)
    batch = collate(samples, list(range(len(samples))), drawn_masks=model != "r18")
    batch_of_theirs = as_theirs(batch)
    models = {"ours": ours, "torchvision": theirs}
    optimizers = {
        name: torch.optim.SGD(
            [p for p in m.parameters() if p.requires_grad], lr=1e-6, momentum=0.9, fused=True
        )
        for name, m in models.items()
    }

    def step(name: str) -> None:
        models[name].train()
        optimizers[name].zero_grad(set_to_none=True)
        with precision_of(name, precision):
            losses: dict[str, Any] = (
                ours(batch.images, batch.targets, batch.seeds) if name == "ours" else theirs(*batch_of_theirs)
            )
        torch.stack([value.float() for value in losses.values()]).sum().backward()
        optimizers[name].step()

    def infer(name: str) -> None:
        models[name].eval()
        with torch.inference_mode(), precision_of(name, precision):
            if name == "ours":
                list(ours.predict(batch.images[:1]))
            else:
                theirs(batch_of_theirs[0][:1])

    return [
        Work(f"training step, {len(samples)} images", lambda: step("ours"), lambda: step("torchvision")),
        Work("inference, 1 image", lambda: infer("ours"), lambda: infer("torchvision")),
    ]


def measure(model: str, precision: str, repeats: int, threads: int, clock_name: str) -> list[dict[str, Any]]:
    from maskrcnn.engine.memory import keep_freed_memory

    clock = CLOCKS[clock_name]

    torch.set_num_threads(threads)
    keep_freed_memory()
    found = []
    for work in works(model, precision):
        with Recorder() as recorder:
            work.ours()
        kernels = Kernels(recorder.calls)
        rounds: list[dict[str, float]] = []
        for _ in range(repeats + 1):
            taken = {}
            for name, call in (("ours", work.ours), ("torchvision", work.theirs)):
                start = clock()
                call()
                taken[name] = clock() - start
            taken["kernels"] = kernels.seconds(clock)
            taken["ratio"] = taken["torchvision"] / taken["ours"]
            taken["times"] = taken["ours"] / taken["kernels"]
            taken["speed"] = kernels.operations * kernels.more / taken["kernels"]
            rounds.append(taken)
        medians = {name: statistics.median(taken[name] for taken in rounds[1:]) for name in rounds[0]}
        found.append({"what": work.what, **medians, "shares": shares(work.ours, 2, clock)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*PAIRS], default=[*PAIRS])
    parser.add_argument(
        "--precisions", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.single:
        measured = measure(args.models[0], args.precisions[0], args.repeats, args.threads, args.clock)
        print("FOUND " + json.dumps(measured))
        return
    print(
        "| model | ours in | what | ours, s | torchvision, s | ratio | kernels, s | times | GFLOP/s of"
        " convolutions |\n|---|---|---|---|---|---|---|---|---|"
    )
    tables: dict[str, dict[str, float]] = {}
    for model in args.models:
        for precision in args.precisions:
            command = [sys.executable, __file__, "--single", "--models", model, "--precisions", precision]
            command += ["--repeats", str(args.repeats), "--threads", str(args.threads)]
            command += ["--clock", args.clock]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
            line = next(text for text in output.splitlines() if text.startswith("FOUND "))
            for row in json.loads(line.removeprefix("FOUND ")):
                figures = f"{row['ours']:.3f} | {row['torchvision']:.3f} | {row['ratio']:.2f}"
                figures += f" | {row['kernels']:.3f} | {row['times']:.3f} | {row['speed'] / 1e9:.0f}"
                print(f"| {model} | {precision} | {row['what']} | {figures} |", flush=True)
                tables[f"{model} {precision} {row['what']}"] = row["shares"]
    kinds = [*KINDS, "the rest"]
    print("\nshare of each kind of operator in ours, % (profiled, which costs some itself)\n")
    print("| | " + " | ".join(kinds) + " |\n|---" + "|---" * len(kinds) + "|")
    for title, found in tables.items():
        whole = sum(found.values())
        print(f"| {title} | " + " | ".join(f"{100 * found.get(k, 0.0) / whole:.1f}" for k in kinds) + " |")


if __name__ == "__main__":
    main()
