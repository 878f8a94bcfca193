"""How well anchors lie on boxes, and which lie better: k-means in IoU (Redmon & Farhadi 2017, section 2).

An anchor is one of the RPN's grid, so its centre is where a level's stride puts it: a small anchor of a
coarse level misses boxes that have its very shape.

Legend: N = boxes, L = levels, A = anchors a cell.  Boxes xyxy, float64, pixels of the network frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.modeling.rpn.anchors import base_anchors

Floats = npt.NDArray[np.float64]

#: From this IoU on the box regression of the RPN reaches the object (the RoI heads' own threshold; He et al.
#: 2017, section 3.1).
REACHED = 0.5
_ROUNDS = 15
#: Boxes of a fit, spread over those there are.
_MOST = 4000


@dataclass(frozen=True)
class AnchorFit:
    """sizes: of each level, finest first, pixels.  ratios: height / width.  recall: share reached."""

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    recall: float

    def written(self) -> str:
        """As a config has them."""
        sizes = ", ".join("[" + ", ".join(f"{s:g}" for s in level) + "]" for level in self.sizes)
        return f"{{sizes: [{sizes}], ratios: [{', '.join(f'{r:g}' for r in self.ratios)}]}}"


def anchor_ious(boxes: Floats, base: Sequence[Floats], strides: Sequence[int], offset: float = 0.0) -> Floats:
    """The IoU of each box with every anchor of the nearest cell of each level: [N, L * A].

    boxes: [N, 4].  base: of each level [A, 4] around (0, 0).  offset: see ``AnchorConfig``.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    found = []
    for shapes, stride in zip(base, strides, strict=True):
        cells = (np.maximum(np.round(centres / stride - offset), 0) + offset) * stride
        low = np.maximum(boxes[:, None, :2] - cells[:, None], shapes[:, :2])
        high = np.minimum(boxes[:, None, 2:] - cells[:, None], shapes[:, 2:])
        shared = np.clip(high - low, 0, None).prod(2)
        union = sides.prod(1)[:, None] + (shapes[:, 2:] - shapes[:, :2]).prod(1) - shared
        found.append(shared / np.maximum(union, 1e-12))
    return np.concatenate(found, axis=1)


def anchor_recall(
    boxes: Floats, base: Sequence[Floats], strides: Sequence[int], offset: float = 0.0
) -> float:
    """The share of ``boxes`` [N, 4] that an anchor reaches by an IoU of ``REACHED``; 1 without boxes."""
    if not len(boxes):
        return 1.0
    return float((anchor_ious(boxes, base, strides, offset).max(1) >= REACHED).mean())


def fit_anchors(
    boxes: Floats, strides: Sequence[int], ratios: int = 3, sizes: int = 1, offset: float = 0.0
) -> AnchorFit:
    """Sizes of each level, and ratios that all share, that lie best on ``boxes`` [N, 4], N > 0.

    Alternately each box chooses the anchor of the largest IoU, and each size and ratio becomes the median of
    its boxes'.  No anchor is smaller than its level's stride, since most boxes of its size would lie between
    its cells.

    Args:
        strides: pixels a cell of every level, finest first.
        ratios, sizes: how many; of sizes, a level.
    """
    boxes = boxes[np.unique(np.linspace(0, len(boxes) - 1, _MOST).astype(np.int64))]
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    side, ratio = np.sqrt(width * height), height / width
    count = len(strides) * sizes
    least = np.repeat(np.asarray(strides, dtype=np.float64), sizes)
    shares = (np.arange(count) + 0.5) / count
    low, high = np.quantile(side, [0.05, 0.95])
    fits = []
    for size in (np.quantile(side, shares), low * (high / low) ** shares):
        size, shape = np.maximum(size, least), np.quantile(ratio, (np.arange(ratios) + 0.5) / ratios)
        for _ in range(_ROUNDS):
            fits.append(_fit(boxes, size, shape, strides, sizes, offset))
            chosen = anchor_ious(boxes, _base(size, shape, sizes), strides, offset).argmax(1)
            old = size, shape
            size = np.maximum(np.sort(_medians(side, chosen // ratios, size)), least)
            shape = np.sort(_medians(ratio, chosen % ratios, shape))
            if np.allclose(old[0], size) and np.allclose(old[1], shape):
                break
    return max(fits, key=lambda fit: fit.recall)


def _medians(values: Floats, groups: npt.NDArray[np.int64], before: Floats) -> Floats:
    """The median of each group; where it is empty, what was before."""
    return np.array(
        [np.median(values[groups == g]) if (groups == g).any() else v for g, v in enumerate(before)]
    )


def _base(size: Floats, shape: Floats, per_level: int) -> list[Floats]:
    return [np.array(base_anchors(level, shape.tolist())) for level in size.reshape(-1, per_level).tolist()]


def _fit(
    boxes: Floats, size: Floats, shape: Floats, strides: Sequence[int], per_level: int, offset: float
) -> AnchorFit:
    """With the numbers as they will be written."""
    size, shape = np.array([float(f"{s:.3g}") for s in size]), np.array([float(f"{r:.2g}") for r in shape])
    recall = anchor_recall(boxes, _base(size, shape, per_level), strides, offset)
    return AnchorFit(tuple(map(tuple, size.reshape(-1, per_level).tolist())), tuple(shape.tolist()), recall)
