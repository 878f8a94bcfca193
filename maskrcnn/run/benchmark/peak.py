"""How many floating-point operations a second a machine reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from maskrcnn.modeling.precision import Precision, autocast

#: Seconds that the peak is looked for, by each kind of product.
_PEAK_SECONDS = 0.5


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
