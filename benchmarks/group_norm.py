"""Group normalisation on a CPU in channels_last memory: PyTorch's and ours, forward and backward.

    python benchmarks/group_norm.py [--repeats 15]

Processor time of one thread, medians of interleaved repeats; the shapes are those of a ResNet-18 FPN on four
images of 288 px, and of a mask head on 64 RoIs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from maskrcnn.modeling.norms import GroupNorm

SHAPES = (
    (4, 64, 128, 128),
    (4, 64, 72, 72),
    (4, 128, 36, 36),
    (4, 256, 18, 18),
    (4, 512, 9, 9),
    (64, 128, 14, 14),
)
GROUPS = 32


def passes(norm: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> tuple[float, float]:
    """Processor seconds of a forward and a backward pass."""
    x = x.detach().requires_grad_()
    began = time.process_time()
    y = norm(x)
    middle = time.process_time()
    y.backward(grad)
    return middle - began, time.process_time() - middle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(
        "dtype     shape               forward ms: PyTorch, ours, ratio   backward ms: PyTorch, ours, ratio"
    )
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            x, grad = (torch.randn(shape).to(dtype, memory_format=torch.channels_last) for _ in range(2))
            norms = nn.GroupNorm(GROUPS, shape[1]), GroupNorm(GROUPS, shape[1])
            runs = [[passes(norm, x, grad) for norm in norms] for _ in range(repeats + 1)][1:]
            cells = []
            for which in (0, 1):
                theirs, ours = (statistics.median(run[k][which] for run in runs) * 1e3 for k in (0, 1))
                cells.append(f"{theirs:8.2f} {ours:8.2f} {theirs / ours:6.2f}x")
            print(
                f"{str(dtype)[6:]:9} {'x'.join(map(str, shape)):18} {cells[0]:>34} {cells[1]:>34}", flush=True
            )


if __name__ == "__main__":
    main()
