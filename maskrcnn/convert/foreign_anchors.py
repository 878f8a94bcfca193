"""Anchors as other frameworks make and store them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskrcnn.modeling.rpn.anchors import AnchorConfig


def stored_anchors(state: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    """The [A, 4] xyxy of every level in a file's ``<prefix>anchor_generator.cell_anchors.<level>``."""
    found = {
        int(match[1]): value.double()
        for name, value in state.items()
        if (match := re.fullmatch(rf"{prefix}anchor_generator\.cell_anchors\.(\d+)", name))
    }
    return [found[level] for level in sorted(found)]


def from_stored(cells: Sequence[Tensor], usual: AnchorConfig) -> AnchorConfig | None:
    """A config for anchors that lie around (0, 0); None where they are the usual ones.

    Args:
        cells: [A, 4] xyxy of every level.
    """
    own = usual.build([1] * len(usual.sizes)).base
    same = len(own) == len(cells) and all(
        a.shape == b.shape and torch.allclose(a, b, atol=1e-3) for a, b in zip(own, cells, strict=True)
    )
    return None if same or not cells else AnchorConfig(sizes=usual.sizes, boxes=_sides(cells))


def inclusive(cells: Sequence[Tensor]) -> AnchorConfig:
    """A config for anchors of the years before 2019: corners are indices of pixels, the last one included,
    around the middle of the cell's first pixel block, ``(stride - 1) / 2``.

    In continuous coordinates their sides are one pixel longer and their centre is the cell's.
    """
    return AnchorConfig(boxes=_sides([cell + cell.new_tensor([0, 0, 1, 1]) for cell in cells]), offset=0.5)


def rounded_cells(
    strides: Sequence[int], sizes: Sequence[Sequence[float]], ratios: Sequence[float]
) -> list[Tensor]:
    """The anchors of Faster R-CNN's release: a square of the stride is brought to each ratio, rounded to
    whole pixels, and only then enlarged; by ratio, then by size.

    Returns:
        [A, 4] xyxy of every level, the last pixel included.
    """
    levels = []
    for stride, level in zip(strides, sizes, strict=True):
        boxes = []
        for ratio in ratios:
            width = round((stride**2 / ratio) ** 0.5)
            height = round(width * ratio)
            for size in level:
                w, h, centre = width * size / stride, height * size / stride, (stride - 1) / 2
                left, top = centre - (w - 1) / 2, centre - (h - 1) / 2
                boxes.append([left, top, left + w - 1, top + h - 1])
        levels.append(torch.tensor(boxes, dtype=torch.float64))
    return levels


def _sides(cells: Sequence[Tensor]) -> tuple[tuple[tuple[float, float], ...], ...]:
    return tuple(
        tuple((round(w, 4), round(h, 4)) for w, h in (cell[:, 2:] - cell[:, :2]).tolist()) for cell in cells
    )
