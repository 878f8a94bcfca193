"""Boxes as awkward as they come, for the tests of NMS and matching."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.layers.cases import generator

Rows = tuple[Tensor, Tensor, Tensor, float, int, Tensor]
Pairs = tuple[Tensor, Tensor, Tensor, float, float, bool, float]

NAN, INFINITE = float("nan"), float("inf")
DTYPES = (torch.float32, torch.float64)


def crowd(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Boxes [*shape, 4] that overlap a lot, some of no area or turned over; whole-numbered for even seeds."""
    g = generator(seed)
    corner = torch.rand(*shape, 2, generator=g, dtype=torch.float64) * 60
    side = torch.rand(*shape, 2, generator=g, dtype=torch.float64) * 40 - 1.5
    boxes = torch.cat((corner, corner + side), dim=-1)
    return (boxes.round() if seed % 2 == 0 else boxes).to(dtype)


def spoil(boxes: Tensor, seed: int) -> Tensor:
    """Some boxes [B, M, 4] with a NaN or an infinite number."""
    boxes = boxes.clone()
    flat = boxes.view(-1)
    where = torch.randint(0, max(1, len(flat)), (4,), generator=generator(seed))
    for i, value in zip(where.tolist(), (NAN, INFINITE, -INFINITE, NAN), strict=True):
        flat[i : i + 1] = value
    return boxes


def rows_for_nms(seeds: range) -> Iterator[Rows]:
    """Boxes [3, M, 4], scores [3, M], real [3, M], threshold, count, groups [3, M]."""
    for seed in seeds:
        g = generator(seed)
        dtype = DTYPES[seed // 2 % 2]
        places = (0, 1, 2, 31, 33, 64, 65, 130, 200)[seed % 9]
        boxes = crowd((3, places), seed, dtype)
        scores = torch.rand(3, places, generator=g, dtype=torch.float64).to(dtype)
        if seed % 3 == 0:
            scores = (scores * 6).round() / 6 - 0.5  # many ties, zeros of both signs among them
            scores = torch.where(torch.rand(3, places, generator=g) < 0.5, scores, -scores)
        if seed % 5 == 0 and places > 3:
            boxes = spoil(boxes, seed)
            scores[0, 1], scores[1, 2], scores[2, 0], scores[2, 3] = NAN, -INFINITE, INFINITE, NAN
        real = torch.rand(3, places, generator=g) < (1.0, 0.7, 0.1)[seed % 3]
        if seed % 4 == 0:
            real[1] = False
        count = (300, 5, 40, 0)[seed % 4]
        groups = torch.randint(0, 5, (3, places), generator=g) * (1 + 1000 * (seed % 2))
        yield boxes, scores, real, (0.5, 0.3, 0.7, 0.0, 1.0)[seed % 5], count, groups


def pairs_to_match(seeds: range) -> Iterator[Pairs]:
    """Truth [3, G, 4], truth_real [3, G], boxes [M, 4] or [3, M, 4], low, high, low_quality, floor."""
    for seed in seeds:
        g = generator(seed)
        dtype = DTYPES[seed // 2 % 2]
        truths, count = (0, 1, 5, 20, 70)[seed % 5], (0, 1, 33, 300, 700)[seed // 3 % 5]
        boxes = crowd((3, count), seed, dtype)
        truth = crowd((3, truths), seed + 1000, dtype)
        if count and seed % 3:  # ground truths that are boxes, some twice: ties
            pick = torch.randint(0, max(1, count // 4), (3, truths), generator=g)
            truth = boxes.gather(1, pick[..., None].expand(-1, -1, 4))
        if seed % 7 == 0:
            boxes, truth = spoil(boxes, seed), spoil(truth, seed + 1)
        real = torch.rand(3, truths, generator=g) < (1.0, 0.6)[seed % 2]
        if seed % 4 == 0:
            real[1] = False
        low, high = ((0.3, 0.7), (0.5, 0.5), (0.0, 0.4))[seed % 3]
        shared = seed // 2 % 2 == 0
        yield truth, real, boxes[0] if shared else boxes, low, high, seed % 2 == 0, (0.0, 0.1)[seed // 5 % 2]
