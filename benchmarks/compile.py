"""``solver.compile: true`` on a CPU: what compiling costs, what a step gains, and when that has paid.

    OMP_NUM_THREADS=1 python benchmarks/compile.py [--models r18 demo] [--precisions float32] [--repeats 7]

``r18`` is that of ``benchmarks/model.py``, 4 images of 256 px; ``demo`` is ``configs/demo.yaml``, 12 images
of 128 px.  Processor seconds of one thread, of the compilers' processes too; torch's cache of compiled code
begins empty.  The cost is that of the first steps beyond what they take later, medians of steps in turn.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from torch._inductor.utils import fresh_cache

from benchmarks.model import ROOT, nuclei_pair
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import load_recipe
from maskrcnn.run.setup import compile_layers
from maskrcnn.structures import Batch, collate


def nuclei() -> tuple[MaskRCNN, Batch]:
    model, _, samples, _ = nuclei_pair("float32")
    return model, collate(samples, list(range(len(samples))))


def demo() -> tuple[MaskRCNN, Batch]:
    recipe = load_recipe(ROOT / "configs/demo.yaml")
    data = recipe.data.train.build(training=True)
    torch.manual_seed(0)
    size = recipe.solver.batch_size
    samples = [data.load(index).to_sample() for index in range(size)]
    return recipe.model.build(len(data.categories)), collate(samples, list(range(size)))


MODELS: dict[str, Callable[[], tuple[Any, Batch]]] = {"r18": nuclei, "demo": demo}


def spent() -> float:
    """Processor seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


def steps_of(model: MaskRCNN, batch: Batch, precision: str) -> Callable[[], float]:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, fused=True)

    def step() -> float:
        began = spent()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            losses = model.losses(batch.images, batch.targets, batch.seeds)
        torch.stack([value.float() for value in losses.values()]).sum().backward()
        optimizer.step()
        return spent() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    both = ["float32", "bfloat16"]
    parser.add_argument("--precisions", nargs="+", choices=both, default=both)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| model | precision | a step, s | compiled, s | compiling, s | paid for after |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in args.models:
        for precision in args.precisions:
            torch.compiler.reset()
            plain, batch = MODELS[name]()
            compiled = copy.deepcopy(plain)
            compile_layers(compiled, torch.device("cpu"), sizes=1)
            ways = {
                "plain": steps_of(plain, batch, precision),
                "compiled": steps_of(compiled, batch, precision),
            }
            with fresh_cache():
                first = sum(ways["compiled"]() for _ in range(2))
            ways["plain"]()
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(args.repeats):
                for way, step in ways.items():
                    taken[way].append(step())
            before, after = (statistics.median(values) for values in taken.values())
            cost = first - 2 * after
            paid = f"{cost / (before - after):,.0f} steps" if after < before else "never"
            print(f"| {name} | {precision} | {before:.3f} | {after:.3f} | {cost:.0f} | {paid} |", flush=True)


if __name__ == "__main__":
    main()
