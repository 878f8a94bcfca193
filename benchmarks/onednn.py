"""What ``maskrcnn.modeling.onednn`` is worth: a training step and an inference with it and without, in turn.

    OMP_NUM_THREADS=1 python benchmarks/onednn.py [--models r18] [--precisions float32 bfloat16] [--repeats 7]

The models are those of ``benchmarks/model.py``.  Medians of processor time of one thread, since other work on
the machine changes that least; without it, the masks' deconvolution is one as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.model import PAIRS, works
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.modeling import onednn
from maskrcnn.modeling.roi.mask_head import FCNMaskHead


def plainly(work: Callable[[], object]) -> object:
    """``work`` as PyTorch does it by itself."""
    with (
        patch.object(onednn, "_computes", lambda dtype: False),
        patch.object(FCNMaskHead, "_in_cells", lambda *_: False),
    ):
        return work()


def in_turn(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of processor time of each way, after one call that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if repeat:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*PAIRS], default=["r18"])
    both = ["float32", "bfloat16"]
    parser.add_argument("--precisions", nargs="+", choices=both, default=both)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| model | ours in | what | with, ms | without, ms | times as fast |\n|---|---|---|---|---|---|")
    for model in args.models:
        for precision in args.precisions:
            for work in works(model, precision):
                ways = {"with": work.ours, "without": lambda ours=work.ours: plainly(ours)}  # type: ignore[misc]
                found = in_turn(ways, args.repeats)
                figures = " | ".join(f"{1e3 * value:.1f}" for value in found.values())
                ratio = found["without"] / found["with"]
                print(f"| {model} | {precision} | {work.what} | {figures} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
