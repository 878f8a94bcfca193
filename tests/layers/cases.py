"""What the operator tests share: boxes of every awkward kind, the variants, and their twins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor

from maskrcnn.layers import ops, prroi_pool, roi_align, roi_align_legacy, roi_pool, roi_warp

Operator = Callable[..., Tensor]

#: Every variant of the family as f(input, boxes, output_size, spatial_scale, levels=None).
VARIANTS: dict[str, Operator] = {
    "align_2": partial(roi_align, sampling_ratio=2),
    "align_adaptive": partial(roi_align, sampling_ratio=0),
    "aligned_1": partial(roi_align, sampling_ratio=1, aligned=True),
    "aligned_adaptive": partial(roi_align, sampling_ratio=0, aligned=True),
    "align_max": partial(roi_align, sampling_ratio=2, aggregation="max"),
    "aligned_max_adaptive": partial(roi_align, sampling_ratio=0, aligned=True, aggregation="max"),
    "random": partial(roi_align, sampling_ratio=2, samples="random", seed=5),
    "random_max_adaptive": partial(
        roi_align, sampling_ratio=0, aligned=True, samples="random", aggregation="max", seed=4294967295
    ),
    "warp_2": partial(roi_warp, sampling_ratio=2),
    "warp_max_adaptive": partial(roi_warp, sampling_ratio=0, aggregation="max"),
    "legacy": roi_align_legacy,
    "precise": prroi_pool,
} | {
    f"pool_{rounding}_{bins}": partial(roi_pool, rounding=rounding, bins=bins)
    for rounding in ops.ROUNDINGS
    for bins in ops.BINS
}

needs_kernels = pytest.mark.skipif(
    "cpu" not in ops.compiled_devices(), reason="the compiled operators are not loaded"
)


@contextmanager
def reference_twins() -> Iterator[None]:
    """Run the public functions in plain torch."""
    before = ops.has_kernels
    ops.has_kernels = lambda device_type: False
    try:
        yield
    finally:
        ops.has_kernels = before


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    seed: int = 0,
) -> Tensor:
    """Normal noise [N, C, H, W] that requires a gradient."""
    x = torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    return x.requires_grad_()


def awkward_rois(images: int, height: float, width: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """[K, 5]: ordinary boxes, and each way to be unusual, in image coordinates of a height x width image."""
    g = generator(1)
    corner = torch.rand(6, 2, generator=g) * torch.tensor([width, height]) * 0.8
    size = torch.rand(6, 2, generator=g) * torch.tensor([width, height]) * 0.5
    boxes = torch.cat([corner, corner + size], dim=1)
    special = torch.tensor(
        [
            [0, 0, width, height],  # the whole image
            [-width, -height, 2 * width, 2 * height],  # larger than the map
            [-30, -40, -20, -25],  # outside, above and left
            [width + 9, height + 9, width + 30, height + 40],  # outside, below and right
            [width * 0.3, height * 0.3, width * 0.3, height * 0.3],  # no size
            [width * 0.6, height * 0.7, width * 0.4, height * 0.5],  # corners exchanged
            [-5.5, height / 2, 7.25, height + 3],  # over an edge
            [0, 0, 1, 1],  # smaller than a cell
            [width - 1, height - 1, width, height],  # the last corner
            [-3e4, -3e4, 3e4, 3e4],  # absurdly large
        ]
    )
    boxes = torch.cat([boxes, special])
    batch = torch.arange(len(boxes)) % images
    return torch.cat([batch[:, None], boxes], dim=1).to(dtype)


def relative(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b| (max |a - b| where b is all 0)."""
    assert a.shape == b.shape
    if a.numel() == 0:
        return 0.0
    scale = float(b.detach().double().abs().max())
    return float((a.detach().double() - b.detach().double()).abs().max()) / (scale or 1.0)
