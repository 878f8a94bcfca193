"""Slow twins of the operators on RoIs and boxes, written from their definitions in plain torch.

They serve twice: the tests compare the compiled kernels with them, and they take over where no compiler is
at hand (``MASKRCNN_REFERENCE_OPS=1`` asks for them on purpose).  Gradients come from torch's own autograd,
so nothing here repeats a hand-derived backward.

One RoI at a time, one bin at a time where that is the definition.  ``geometry.py`` tells what a RoI reads, in
the dtype of ``rois`` (float32 or float64).

Legend: K RoIs, C channels, H x W one level's map in cells, P x Q the output size in bins.
All functions take checked arguments (see ``arguments.py``): ``features`` list of [N, C, Hl, Wl], ``rois``
[K, 5] = (batch index, x1, y1, x2, y2) in image coordinates, ``levels`` int64 [K] or None, ``scales`` one
float a level (cells per image pixel).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from maskrcnn.layers.geometry import (
    LEGACY,
    PRECISE,
    Bins,
    Geometry,
    Rounding,
    cell_axis,
    integral_axis,
    on_map,
    point_axis,
    sampled_axis,
    taps,
)

#: Bins with more samples a side than this are computed one at a time.
MAX_GRID_SIDE = 64


def is_channels_last(tensor: Tensor) -> bool:
    """Whether results for ``tensor`` [N, C, H, W] take the channels_last layout (both = contiguous)."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def check_values(name: str, features: Sequence[Tensor], rois: Tensor, levels: Tensor | None) -> None:
    """Raise the sentence that the compiled CPU kernels raise for one of ``rois`` [K, 5] that is bad."""
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


def bilinear(feature: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of ``feature`` [C, H, W] at points (y, x) of shape S -> [C, *S]; 0 beyond one cell outside."""
    height, width = feature.shape[-2:]
    inside = on_map(y, height) & on_map(x, width)
    y0, y1, fy = taps(torch.where(inside, y, 0), height)
    x0, x1, fx = taps(torch.where(inside, x, 0), width)
    wide = torch.promote_types(feature.dtype, torch.float32)
    fy, fx = fy.to(wide), fx.to(wide)
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
    scale = _scale_per_roi(rois, levels, scales)
    random = samples == "random"
    y_axis, x_axis = (
        sampled_axis(rois[:, 2 - i], rois[:, 4 - i], scale, output_size[i], geometry, ratio, random)
        for i in (0, 1)
    )
    where = Geometry(y_axis, x_axis, seed if random else None)
    outputs = []
    for k in range(rois.shape[0]):
        feature = _feature_of(features, rois, levels, k)
        gy, gx = y_axis.count(k), x_axis.count(k)
        if not random and max(gy, gx) > MAX_GRID_SIDE:
            ys, xs = y_axis.points_on_map(k, feature.shape[1]), x_axis.points_on_map(k, feature.shape[2])
            bins = [_large_bin(feature, y, x, gy * gx, aggregation) for y in ys for x in xs]
            outputs.append(torch.stack(bins, dim=1).view(-1, *output_size))
            continue
        y, x = where.points(k)
        values = bilinear(feature, y, x)  # [C, P, Q, samples]
        if values.shape[-1] == 0:
            outputs.append(values.sum(-1))
        elif aggregation == "max":
            outputs.append(_max_of_samples(values, y, x, feature))
        else:
            outputs.append(values.sum(-1) / max(gy * gx, 1))
    return _stack(outputs, features, output_size)


def weighed(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    output_size: tuple[int, int],
    geometry: int,
) -> Tensor:
    """A weight a cell and bin on each axis, [K, C, P, Q].

    LEGACY: the first public PyTorch RoIAlign, one point a cell of a (P, Q) grid.  PRECISE: PrRoI pooling
    (Jiang et al. 2018), the mean of the bilinear surface over each bin.
    """
    scale = _scale_per_roi(rois, levels, scales)
    axis_of = {LEGACY: point_axis, PRECISE: integral_axis}[geometry]
    y, x = (axis_of(rois[:, 2 - i], rois[:, 4 - i], scale, output_size[i]) for i in (0, 1))
    outputs = []
    for k in range(rois.shape[0]):
        feature = _feature_of(features, rois, levels, k)
        wide = torch.promote_types(feature.dtype, torch.float32)
        rows, columns = (a.weights(k, n).to(wide) for a, n in zip((y, x), feature.shape[1:], strict=True))
        outputs.append(torch.einsum("pi,cij,qj->cpq", rows, feature.to(wide), columns))
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
        roi, s = rois[k : k + 1], scale[k : k + 1]
        edges = []
        for i in (0, 1):
            axis = cell_axis(
                roi[:, 2 - i], roi[:, 4 - i], s, output_size[i], rounding, bins, feature.shape[1 + i]
            )
            edges.append(list(zip(*(edge[0].long().tolist() for edge in axis.edges), strict=True)))
        zero = feature.new_zeros(feature.shape[0])
        rows = []
        for y0, y1 in edges[0]:
            for x0, x1 in edges[1]:
                region = feature[:, y0:y1, x0:x1].flatten(1)
                rows.append(_first_maximum(region) if region.shape[1] else zero)
        outputs.append(torch.stack(rows, dim=1).view(feature.shape[0], *output_size))
    return _stack(outputs, features, output_size)


#: IoU pairs that :func:`match` holds at once; bounds memory where many ground truths meet many anchors.
MAX_PAIRS = 1 << 20


def nms(
    boxes: Tensor, scores: Tensor, real: Tensor, groups: Tensor | None, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """``ops.nms``, box by box: ``boxes`` [B, M, 4] -> int64 [B, count] and int64 [B]."""
    rows, places = scores.shape
    order = scores.argsort(dim=1, descending=True, stable=True)
    box = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    kept = real.gather(1, order)
    same = groups.gather(1, order) if groups is not None else order.new_zeros(rows, places)
    area = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    limit = _at_most(iou_threshold, boxes.dtype)
    for i in range(places):
        one, rest = box[:, i : i + 1], box[:, i + 1 :]
        inter = _intersection(one, rest)
        worse = inter / (area[:, i : i + 1] + area[:, i + 1 :] - inter) > limit
        worse &= (same[:, i + 1 :] == same[:, i : i + 1]) & kept[:, i : i + 1]
        kept[:, i + 1 :] &= ~worse
    rank = kept.cumsum(dim=1) - 1
    slot = torch.where(kept & (rank < count), rank, count)  # the last column takes what is not kept
    index = order.new_zeros(rows, count + 1).scatter_(1, slot, order)[:, :count].contiguous()
    return index, kept.sum(dim=1).clamp(max=count)


def match(
    truth: Tensor,
    truth_real: Tensor,
    boxes: Tensor,
    low: float,
    high: float,
    low_quality: bool,
    floor: float,
) -> tuple[Tensor, Tensor]:
    """``ops.match``, in pieces of pairs: ``truth`` [N, G, 4], ``boxes`` [M, 4] or [N, M, 4] -> two [N, M]."""
    images, truths, count = truth.shape[0], truth.shape[1], boxes.shape[-2]
    index = torch.zeros(images, count, dtype=torch.int64, device=boxes.device)
    labels = torch.zeros(images, count, dtype=torch.int8, device=boxes.device)
    if truths == 0:
        return index, labels if floor <= 0 else labels - 1
    step = max(1, MAX_PAIRS // max(1, images * truths))
    chunks = [slice(start, start + step) for start in range(0, count, step)]
    best = truth.new_zeros(images, truths)
    iou = best[..., None]
    for chunk in chunks:
        iou = _iou(truth, boxes[..., chunk, :]).masked_fill(~truth_real[..., None], -1)
        value, index[:, chunk] = iou.max(dim=1)
        labels[:, chunk] = (value >= low).to(torch.int8).neg() + 2 * (value >= high).to(torch.int8)
        if floor > 0:
            labels[:, chunk].masked_fill_(value < floor, -1)
        best = torch.maximum(best, iou.amax(dim=2))
    if low_quality:
        best = torch.where(best > 0, best, 2)  # 2: no IoU equals it
        for chunk in chunks:
            if len(chunks) > 1:
                iou = _iou(truth, boxes[..., chunk, :])
            labels[:, chunk].masked_fill_((iou == best[..., None]).any(dim=1), 1)
    return index, labels


def _iou(truth: Tensor, boxes: Tensor) -> Tensor:
    """IoU as ``structures.box_iou`` has it, of every image: [N, G, 4] and [(N,) M, 4] -> [N, G, M]."""
    a, b = truth[:, :, None], boxes[..., None, :, :]
    sides = [(x[..., 2:] - x[..., :2]).clamp(min=0) for x in (a, b)]
    inter = _intersection(a, b)
    union = sides[0].prod(dim=-1) + sides[1].prod(dim=-1) - inter
    return torch.where(union > 0, inter / union, 0)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that boxes [..., 4] share, shapes broadcast."""
    sides = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp_(min=0)
    return sides[..., 0] * sides[..., 1]


def _at_most(limit: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above ``limit``: comparisons with it round nothing."""
    near = torch.tensor(limit, dtype=dtype)
    down = torch.tensor(-float("inf"), dtype=dtype)
    return float(near if float(near) <= limit else torch.nextafter(near, down))


def _first_maximum(region: Tensor) -> Tensor:
    """Maximum of [C, cells] along the cells whose gradient goes to the first cell that attains it."""
    return region.gather(1, region.argmax(dim=1, keepdim=True))[:, 0]


def _max_of_samples(values: Tensor, y: Tensor, x: Tensor, feature: Tensor) -> Tensor:
    """Maximum over the last axis; samples outside the map count as 0 and win only if strictly larger."""
    height, width = feature.shape[-2:]
    inside = (on_map(y, height) & on_map(x, width)).expand(values.shape)
    masked = values.masked_fill(~inside, float("-inf"))
    best = masked.gather(-1, masked.argmax(dim=-1, keepdim=True))[..., 0]
    some_outside = ~inside.all(dim=-1)
    return torch.where(some_outside & (best < 0), torch.zeros_like(best), best)


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


def _stack(outputs: list[Tensor], features: Sequence[Tensor], output_size: tuple[int, int]) -> Tensor:
    first = features[0]
    if outputs:
        result = torch.stack(outputs).to(first.dtype)
    else:
        result = first.new_zeros((0, first.shape[1], *output_size))
    # No cell may have been read; the result depends on the features all the same.
    result = result + torch.stack([f.flatten()[:0].sum() for f in features]).sum()
    layout = torch.channels_last if is_channels_last(first) else torch.contiguous_format
    return result.contiguous(memory_format=layout)
