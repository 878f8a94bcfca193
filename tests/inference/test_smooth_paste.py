"""``paste: smooth``: the definition, and borders against those of known shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from maskrcnn.inference.paste import paste_masks
from maskrcnn.inference.smooth_paste import LIMIT

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
SIDE = 28


def spline(distance: float) -> float:
    """The cubic B-spline: the weight of a cell so many cells away."""
    d = abs(distance)
    if d < 1:
        return 2 / 3 - d**2 + d**3 / 2
    return (2 - d) ** 3 / 6 if d < 2 else 0.0


def by_definition(probs: Floats, box: list[float], height: int, width: int) -> Bools:
    """One pixel after the other."""
    x1, y1, x2, y2 = box
    rows, columns = probs.shape
    out = np.zeros((height, width), dtype=np.bool_)
    for y in range(height):
        for x in range(width):
            if not (x1 <= x + 0.5 <= x2 and y1 <= y + 0.5 <= y2):
                continue
            u, v = (x + 0.5 - x1) / (x2 - x1) * columns - 0.5, (y + 0.5 - y1) / (y2 - y1) * rows - 0.5
            total = 0.0
            for j in range(math.floor(v) - 1, math.floor(v) + 3):
                for i in range(math.floor(u) - 1, math.floor(u) + 3):
                    inside = 0 <= j < rows and 0 <= i < columns
                    p = min(max(probs[j, i], 1e-9), 1 - 1e-9) if inside else 0.0
                    logit = min(max(math.log(p / (1 - p)), -LIMIT), LIMIT) if inside else -LIMIT
                    total += spline(u - i) * spline(v - j) * logit
            out[y, x] = total >= 0
    return out


@pytest.mark.parametrize(
    "box", [[3.3, 2.1, 30.7, 25.2], [-9.0, -4.5, 17.2, 50.0], [12.2, 7.9, 15.1, 9.6]], ids=str
)
def test_it_is_the_definition(box: list[float]) -> None:
    probs = torch.rand(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = paste_masks(probs[None].float(), torch.tensor([box]), 33, 40, "smooth")[0]
    wanted = by_definition(probs.float().double().numpy(), torch.tensor(box).double().tolist(), 33, 40)
    assert wanted.any() and np.array_equal(found, wanted)


def ellipse(x: Floats, y: Floats) -> Floats:
    """About the distance to its border, > 0 inside, where the shape's box is [-1, 1] x [-1, 1]."""
    return 1 - np.hypot(x, y)


def lobes(x: Floats, y: Floats) -> Floats:
    """Three of them, with hollows between."""
    return 0.87 + 0.13 * np.cos(3 * np.arctan2(y, x)) - np.hypot(x, y)


def ring(x: Floats, y: Floats) -> Floats:
    """One with a hole, which must stay."""
    return np.minimum(1 - np.hypot(x, y), np.hypot(x, y) - 0.4)


Shape = Callable[[Floats, Floats], Floats]


def drawn(shape: Shape, half: float, size: int) -> tuple[Bools, torch.Tensor, torch.Tensor]:
    """The pixels of a shape of radius ``half``, a perfect head's masks [1, M, M], its box [1, 4]."""
    middle = size / 2
    pixels = (np.arange(size) + 0.5 - middle) / half
    cells = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    truth = shape(pixels[None], pixels[:, None]) >= 0
    logits = shape(cells[None], cells[:, None]) * 2 * SIDE  # 4 a cell: 0.88 in a cell that a border touches
    probs = torch.from_numpy(1 / (1 + np.exp(-logits)))[None].float()
    return truth, probs, torch.tensor([[middle - half, middle - half, middle + half, middle + half]])


def boundary_f(a: Bools, b: Bools, within: float) -> float:
    """Perazzi et al. 2016, section 4: F of border pixels that have one of the other's so near."""
    edges = [m & ~cv2.erode(m.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) for m in (a, b)]
    away = [cv2.distanceTransform((~e).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for e in edges]
    precision, recall = (away[1][edges[0]] <= within).mean(), (away[0][edges[1]] <= within).mean()
    return float(2 * precision * recall / (precision + recall))


def iou(a: Bools, b: Bools) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("shape", [ellipse, lobes, ring])
@pytest.mark.parametrize("half", [90.0, 201.3])
def test_borders_of_large_objects_are_nearer_to_the_truth(shape: Shape, half: float) -> None:
    truth, probs, box = drawn(shape, half, 440)
    smooth, aligned = (paste_masks(probs, box, 440, 440, how)[0] for how in ("smooth", "aligned"))  # type: ignore[arg-type]
    assert iou(smooth, truth) > iou(aligned, truth)
    # What the grid itself loses: a border that is nowhere off by more than a quarter of a cell.
    cell = 2 * half / SIDE
    steps = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    beyond = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    off = np.where(truth, steps, beyond)[smooth != truth]
    assert off.max(initial=0) <= cell / 4 + 1
    eroded, grown = (truth & (steps > cell / 4)), (truth | (beyond <= cell / 4))
    assert iou(smooth, truth) >= max(iou(eroded, truth), iou(grown, truth))
    for within in (1.0, 1.5, 2.0):
        assert boundary_f(smooth, truth, within) >= boundary_f(aligned, truth, within)
    assert (cv2.connectedComponents((~smooth).astype(np.uint8), connectivity=4)[0] == 3) == (shape is ring)


def test_corners_of_a_staircase_are_rounded() -> None:
    """A slanted edge whose cells are 0 or 1, as sure heads give it: the border is nearer to the line."""
    cells = np.arange(SIDE) + 0.5
    inside = (cells[:, None] * 2 - cells[None]) > 14
    probs = torch.from_numpy(np.where(inside, 0.999, 0.001))[None].float()
    box = torch.tensor([[0.0, 0.0, 280.0, 280.0]])
    line = 2 * (np.arange(280) + 0.5)[:, None] - (np.arange(280) + 0.5)[None] > 140
    away = np.abs(2 * (np.arange(280) + 0.5)[:, None] - (np.arange(280) + 0.5)[None] - 140) / math.sqrt(5)
    deep = np.s_[20:260, 20:260]
    errors = []
    for how in ("smooth", "aligned"):
        found = paste_masks(probs, box, 280, 280, how)[0]  # type: ignore[arg-type]
        errors.append((away * (found != line))[deep].sum())
    assert errors[0] < errors[1]
