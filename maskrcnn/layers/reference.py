"""Slow twins of the RoI operators, written from their definitions in plain torch.

They serve twice: the tests compare the compiled kernels with them, and they take over where no compiler is
at hand (``MASKRCNN_REFERENCE_OPS=1`` asks for them on purpose).  Gradients come from torch's own autograd,
so nothing here repeats a hand-derived backward.

One RoI at a time, one bin at a time where that is the definition.  Geometry is computed in the dtype of
``rois`` (float32 or float64), each expression in the order of the compiled header ``csrc/roi_align.h``.

Legend: K RoIs, C channels, H x W one level's map in cells, P x Q the output size in bins.
All functions take checked arguments (see ``arguments.py``): ``features`` list of [N, C, Hl, Wl], ``rois``
[K, 5] = (batch index, x1, y1, x2, y2) in image coordinates, ``levels`` int64 [K] or None, ``scales`` one
float a level (cells per image pixel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["round", "floor", "sppnet"]
Bins = Literal["overlap", "partition", "truncate"]

#: Bin geometries; the numbers are shared with csrc/roi_align.h.
PLAIN, ALIGNED, WARP, LEGACY, PRECISE = range(5)

#: In random mode at most this many samples a side are drawn when the count is adaptive.
MAX_RANDOM_SIDE = 64

#: Bins with more samples a side than this are computed one at a time.
MAX_GRID_SIDE = 64

_MASK32 = 0xFFFFFFFF


def check_values(name: str, features: Sequence[Tensor], rois: Tensor, levels: Tensor | None) -> None:
    """Raise the sentence that the compiled CPU kernels raise for a bad RoI."""
    rois = rois.detach()
    if rois.shape[0] == 0:
        return
    finite = torch.isfinite(rois).all(dim=1)
    if not bool(finite.all()):
        k = int((~finite).nonzero()[0, 0])
        raise RuntimeError(f"{name}: RoI {k} holds a NaN or an infinite number.")
    batch = rois[:, 0]
    images = features[0].shape[0]
    bad = (batch < 0) | (batch >= images) | (batch != batch.floor())
    if bool(bad.any()):
        k = int(bad.nonzero()[0, 0])
        raise RuntimeError(
            f"{name}: RoI {k} has batch index {float(batch[k]):g}, but the input holds {images} image(s)."
        )
    if levels is not None:
        wrong = (levels < 0) | (levels >= len(features))
        if bool(wrong.any()):
            k = int(wrong.nonzero()[0, 0])
            raise RuntimeError(
                f"{name}: RoI {k} asks for level {int(levels[k])}, but there are {len(features)} level(s)."
            )


def round_half_away(x: Tensor) -> Tensor:
    """C's ``round``: halves go away from zero (``torch.round`` sends them to even)."""
    whole = x.trunc()
    return whole + torch.sign(x) * ((x - whole).abs() >= 0.5)


def axis_geometry(
    low: Tensor, high: Tensor, scale: Tensor, bins: int, geometry: int, ratio: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Start [K], bin size [K] (cells) and samples a bin [K] (int64) along one axis."""
    offset = 0.5 if geometry == ALIGNED else 0.0
    if geometry == WARP:
        start = round_half_away(low * scale)
        size = (round_half_away(high * scale) - start + 1).clamp(min=1)
    else:
        start = low * scale - offset
        size = high * scale - offset - start
        if geometry == PLAIN:
            size = size.clamp(min=1)
    bin_size = size / bins
    grid = torch.full_like(start, ratio) if ratio > 0 else (size / bins).ceil()
    return start, bin_size, grid.clamp(min=0, max=2.0**30).long()


def _mix(h: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int64 tensors that hold 32-bit values."""
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & _MASK32
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & _MASK32
    return h ^ (h >> 16)


def random_fractions(seed: int, roi: int, bins: int, count: int) -> tuple[Tensor, Tensor]:
    """Uniform (y, x) positions inside each bin, float64 [bins, count] each, a pure function of its arguments.

    A counter-based generator: the same numbers on every device and for any number of threads.
    """
    base = _mix(torch.tensor(seed & _MASK32))
    base = _mix((base + roi * 0x9E3779B9) & _MASK32)
    per_bin = _mix((base + torch.arange(bins) * 0x85EBCA6B) & _MASK32)[:, None]
    index = torch.arange(count)[None]
    y = _mix((per_bin + (2 * index) * 0xC2B2AE35) & _MASK32) >> 8
    x = _mix((per_bin + (2 * index + 1) * 0xC2B2AE35) & _MASK32) >> 8
    return y.double() * 2.0**-24, x.double() * 2.0**-24


def bilinear(feature: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of ``feature`` [C, H, W] at points (y, x) of shape S -> [C, *S]; 0 beyond one cell outside."""
    height, width = feature.shape[-2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y = torch.where(inside, y, 0).clamp(min=0, max=height - 1)
    x = torch.where(inside, x, 0).clamp(min=0, max=width - 1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    wide = torch.promote_types(feature.dtype, torch.float32)
    fy, fx = (y - y0).to(wide), (x - x0).to(wide)
    value = feature.to(wide)
    total = (
        (1 - fy) * (1 - fx) * value[:, y0, x0]
        + (1 - fy) * fx * value[:, y0, x1]
        + fy * (1 - fx) * value[:, y1, x0]
        + fy * fx * value[:, y1, x1]
    )
    return total * inside


def sampled(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    output_size: tuple[int, int],
    geometry: int,
    ratio: int,
    aggregation: Literal["avg", "max"] = "avg",
    samples: Literal["grid", "random"] = "grid",
    seed: int = 0,
) -> Tensor:
    """RoIAlign and RoIWarp: the mean or the maximum of bilinear samples in each bin, [K, C, P, Q]."""
    bins_y, bins_x = output_size
    scale = _scale_per_roi(rois, levels, scales)
    y_start, y_bin, y_grid = axis_geometry(rois[:, 2], rois[:, 4], scale, bins_y, geometry, ratio)
    x_start, x_bin, x_grid = axis_geometry(rois[:, 1], rois[:, 3], scale, bins_x, geometry, ratio)
    p = torch.arange(bins_y, device=rois.device, dtype=rois.dtype)[:, None]
    q = torch.arange(bins_x, device=rois.device, dtype=rois.dtype)[:, None]
    outputs = []
    for k in range(rois.shape[0]):
        feature = _feature_of(features, rois, levels, k)
        gy, gx = int(y_grid[k]), int(x_grid[k])
        if samples == "random":
            if ratio <= 0:
                gy, gx = min(gy, MAX_RANDOM_SIDE), min(gx, MAX_RANDOM_SIDE)
            fy, fx = random_fractions(seed, k, bins_y * bins_x, gy * gx)
            fy, fx = (f.to(rois).view(bins_y, bins_x, gy * gx) for f in (fy, fx))
            y = y_start[k] + p[:, None] * y_bin[k] + fy * y_bin[k]
            x = x_start[k] + q[None] * x_bin[k] + fx * x_bin[k]
        elif max(gy, gx) > MAX_GRID_SIDE:
            ys = _samples_on_map(y_start[k], y_bin[k], gy, bins_y, feature.shape[1])
            xs = _samples_on_map(x_start[k], x_bin[k], gx, bins_x, feature.shape[2])
            bins = [_large_bin(feature, y, x, gy * gx, aggregation) for y in ys for x in xs]
            outputs.append(torch.stack(bins, dim=1).view(-1, bins_y, bins_x))
            continue
        else:
            iy = torch.arange(gy, device=rois.device, dtype=rois.dtype)
            ix = torch.arange(gx, device=rois.device, dtype=rois.dtype)
            y = y_start[k] + p * y_bin[k] + (iy + 0.5) * y_bin[k] / gy  # [P, gy]
            x = x_start[k] + q * x_bin[k] + (ix + 0.5) * x_bin[k] / gx  # [Q, gx]
            shape = (bins_y, bins_x, gy, gx)
            y = y[:, None, :, None].expand(shape).flatten(2)
            x = x[None, :, None, :].expand(shape).flatten(2)
        values = bilinear(feature, y, x)  # [C, P, Q, samples]
        if values.shape[-1] == 0:
            outputs.append(values.sum(-1))
        elif aggregation == "max":
            outputs.append(_max_of_samples(values, y, x, feature))
        else:
            outputs.append(values.sum(-1) / max(gy * gx, 1))
    return _stack(outputs, features, output_size)


def legacy(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    output_size: tuple[int, int],
) -> Tensor:
    """The first public PyTorch RoIAlign: one point a cell of a (P, Q) grid, [K, C, P, Q]."""
    scale = _scale_per_roi(rois, levels, scales)
    outputs = []
    for k in range(rois.shape[0]):
        feature = _feature_of(features, rois, levels, k)
        matrices = []
        axes = ((2, 4, output_size[0], feature.shape[1]), (1, 3, output_size[1], feature.shape[2]))
        for low, high, bins, length in axes:
            start, end = rois[k, low] * scale[k], rois[k, high] * scale[k]
            step = (end - start + 1).clamp(min=0) / (bins - 1)
            point = torch.arange(bins, device=rois.device, dtype=rois.dtype) * step + start
            inside = (point >= 0) & (point < length)
            left = point.floor().clamp(min=0, max=length - 2)
            fraction = point - left
            cell = torch.arange(length, device=rois.device)[None]
            weight = (cell == left[:, None]) * (1 - fraction[:, None])
            weight = weight + (cell == left[:, None] + 1) * fraction[:, None]
            matrices.append(weight * inside[:, None])
        outputs.append(_apply_matrices(feature, *matrices))
    return _stack(outputs, features, output_size)


def precise(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    output_size: tuple[int, int],
) -> Tensor:
    """PrRoI pooling (Jiang et al. 2018): the mean of the bilinear surface over each bin, [K, C, P, Q]."""
    scale = _scale_per_roi(rois, levels, scales)
    outputs = []
    for k in range(rois.shape[0]):
        feature = _feature_of(features, rois, levels, k)
        matrices = []
        axes = ((2, 4, output_size[0], feature.shape[1]), (1, 3, output_size[1], feature.shape[2]))
        for low, high, bins, length in axes:
            start, end = rois[k, low] * scale[k], rois[k, high] * scale[k]
            size = (end - start).clamp(min=0) / bins
            a = (start + torch.arange(bins, device=rois.device, dtype=rois.dtype) * size)[:, None]
            b = a + size
            cell = torch.arange(length, device=rois.device)[None].to(rois)
            u, v = torch.maximum(a, cell - 1), torch.minimum(b, cell)  # the rising half of the hat
            rising = (v - u).clamp(min=0) * ((u + v) / 2 - (cell - 1))
            u, v = torch.maximum(a, cell), torch.minimum(b, cell + 1)  # the falling half
            falling = (v - u).clamp(min=0) * ((cell + 1) - (u + v) / 2)
            positive = size > 0
            matrices.append(torch.where(positive, (rising + falling) / torch.where(positive, size, 1), 0.0))
        outputs.append(_apply_matrices(feature, *matrices))
    return _stack(outputs, features, output_size)


def roi_pool(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    output_size: tuple[int, int],
    rounding: Rounding = "round",
    bins: Bins = "overlap",
) -> Tensor:
    """RoIPool: the maximum over quantised bins, [K, C, P, Q]; an empty bin gives 0."""
    scale = _scale_per_roi(rois, levels, scales)
    outputs = []
    for k in range(rois.shape[0]):
        feature = _feature_of(features, rois, levels, k)
        edges = []
        axes = ((2, 4, output_size[0], feature.shape[1]), (1, 3, output_size[1], feature.shape[2]))
        for low, high, count, length in axes:
            first, last = rois[k, low] * scale[k], rois[k, high] * scale[k]
            if rounding == "sppnet":
                start, end = int(first.floor()) + 1, int(last.ceil()) - 1
            else:
                if rounding == "round":
                    first, last = round_half_away(first), round_half_away(last)
                start, end = int(first.floor()), int(last.floor())
            edges.append(_pool_edges(start, end, count, length, bins, rois.dtype))
        zero = feature.new_zeros(feature.shape[0])
        rows = []
        for y0, y1 in edges[0]:
            for x0, x1 in edges[1]:
                region = feature[:, y0:y1, x0:x1].flatten(1)
                rows.append(_first_maximum(region) if region.shape[1] else zero)
        outputs.append(torch.stack(rows, dim=1).view(feature.shape[0], *output_size))
    return _stack(outputs, features, output_size)


def _pool_edges(
    start: int, end: int, count: int, length: int, bins: str, dtype: torch.dtype
) -> list[tuple[int, int]]:
    """Half-open cell ranges [lo, hi) of the ``count`` bins, clipped to [0, length]."""
    ranges = []
    for p in range(count):
        if bins == "overlap":
            size = torch.tensor(max(end - start + 1, 1), dtype=dtype) / count
            lo, hi = int((p * size).floor()), int(((p + 1) * size).ceil())
        elif bins == "partition":
            side = max(end - start, 0)
            lo, hi = p * side // count, (p + 1) * side // count
        else:
            side = max(end - start, 0) // count
            lo, hi = p * side, (p + 1) * side
        ranges.append((min(max(lo + start, 0), length), min(max(hi + start, 0), length)))
    return ranges


def _first_maximum(region: Tensor) -> Tensor:
    """Maximum of [C, cells] along the cells whose gradient goes to the first cell that attains it."""
    return region.gather(1, region.argmax(dim=1, keepdim=True))[:, 0]


def _max_of_samples(values: Tensor, y: Tensor, x: Tensor, feature: Tensor) -> Tensor:
    """Maximum over the last axis; samples outside the map count as 0 and win only if strictly larger."""
    height, width = feature.shape[-2:]
    inside = ((y >= -1) & (y <= height) & (x >= -1) & (x <= width)).expand(values.shape)
    masked = values.masked_fill(~inside, float("-inf"))
    best = masked.gather(-1, masked.argmax(dim=-1, keepdim=True))[..., 0]
    some_outside = ~inside.all(dim=-1)
    return torch.where(some_outside & (best < 0), torch.zeros_like(best), best)


def _samples_on_map(start: Tensor, size: Tensor, grid: int, bins: int, length: int) -> list[Tensor]:
    """The regular samples of each bin that lie on the map; never makes the billions that do not."""
    result = []
    for p in range(bins):
        base = start + p * size
        step = float(size) / grid if grid else 0.0
        first, last = 0, grid
        if step > 0:
            slack = (abs(float(base)) + abs(float(start))) * 1e-6 / step + 3
            first = min(max(math.floor((-1 - float(base)) / step - slack), 0), grid)
            last = min(max(math.ceil((length - float(base)) / step + slack), first), grid)
        index = torch.arange(first, last, device=start.device, dtype=start.dtype)
        position = base + (index + 0.5) * size / max(grid, 1)
        result.append(position[(position >= -1) & (position <= length)])
    return result


def _large_bin(feature: Tensor, y: Tensor, x: Tensor, count: int, aggregation: str) -> Tensor:
    """Mean or maximum [C] over the grid y x x of samples on the map, out of ``count`` samples of the bin."""
    values = bilinear(feature, y[:, None], x[None]).flatten(1)
    if values.shape[1] == 0 or aggregation == "avg":
        return values.sum(1) / max(count, 1)
    best = _first_maximum(values)
    return torch.where(best < 0, 0, best) if values.shape[1] < count else best


def _scale_per_roi(rois: Tensor, levels: Tensor | None, scales: Sequence[float]) -> Tensor:
    table = torch.tensor(list(scales), dtype=rois.dtype, device=rois.device)
    return table[levels] if levels is not None else table[:1].expand(rois.shape[0])


def _feature_of(features: Sequence[Tensor], rois: Tensor, levels: Tensor | None, k: int) -> Tensor:
    level = int(levels[k]) if levels is not None else 0
    return features[level][int(rois[k, 0])]


def _apply_matrices(feature: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """sum_ij rows[p, i] columns[q, j] feature[c, i, j] -> [C, P, Q]."""
    wide = torch.promote_types(feature.dtype, torch.float32)
    return torch.einsum("pi,cij,qj->cpq", rows.to(wide), feature.to(wide), columns.to(wide))


def _stack(outputs: list[Tensor], features: Sequence[Tensor], output_size: tuple[int, int]) -> Tensor:
    first = features[0]
    if outputs:
        result = torch.stack(outputs).to(first.dtype)
    else:
        result = first.new_zeros((0, first.shape[1], *output_size))
    # No cell may have been read; the result depends on the features all the same.
    result = result + torch.stack([f.flatten()[:0].sum() for f in features]).sum()
    channels_last = not first.is_contiguous() and first.is_contiguous(memory_format=torch.channels_last)
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
