"""How far RoI operators are off on the boxes of a data set, by operator, stride and object size.

Legend: K boxes, P bins along an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.errors import UserError
from maskrcnn.layers.geometry import CellAxis
from maskrcnn.layers.operator import RoIOperator
from maskrcnn.modeling.roi.pooler import fpn_levels
from maskrcnn.studies.explain.placement import Cells, Floats, bins_of, ideal_edges, to_pixels
from maskrcnn.studies.explain.scaled_boxes import Boxes

#: A number of pixels, or ``fpn``: each box at the stride of its level by Lin et al. 2017, eq. 1 (P2 - P5).
Stride = int | Literal["fpn"]
#: COCO's limits, on the area of the box at network scale, pixels.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}


@dataclass(frozen=True)
class Misalignment:
    """One operator at one stride on K boxes.

    offset: [K], mean distance of a box's bins from where they should be (centre to centre), pixels.
    share: [K], the same in parts of the box's side (square root of its area).
    iou: [K], of the region that all bins cover together with the box.
    empty: [K], share of bins that read nothing at all.
    moves: [K, 2 P], signed offsets of the bins along y and then x, pixels; right and down positive.
    stride: [K], pixels.
    """

    offset: Floats
    share: Floats
    iou: Floats
    empty: Floats
    moves: Floats
    stride: Floats


@dataclass(frozen=True)
class OperatorRow:
    """A line of the table: one operator, stride and object size.

    offset, offset_p90: mean and 90th percentile of :attr:`Misalignment.offset`, pixels.
    share, iou, empty: means.
    bias: mean signed offset along an axis, pixels: alike for all boxes, so a network can learn to undo it.
    noise: what is left, the root mean square of a bin's offset about its own mean over the boxes (the mean
        in cells, so that levels mix), pixels; it differs from box to box, so nothing can undo it.
    quantiles: 10, 25, 50, 75, 90 % of the offset (pixels), and of the IoU.
    """

    op: RoIOperator
    stride: Stride
    size: str
    boxes: int
    offset: float
    offset_p90: float
    share: float
    bias: float
    noise: float
    iou: float
    empty: float
    quantiles: tuple[tuple[float, ...], tuple[float, ...]]


def strides_of(boxes: Boxes, stride: Stride) -> Floats:
    """The stride at which each box is pooled: [K], pixels."""
    if stride != "fpn":
        return np.full(len(boxes), float(stride))
    levels = fpn_levels(torch.from_numpy(boxes.xyxy), 2, 5).numpy()
    return np.asarray(4.0 * 2.0**levels, dtype=np.float64)


def misalignment(
    boxes: Boxes, op: RoIOperator, stride: Stride, output_size: int = 7, cells: Cells = "centre"
) -> Misalignment:
    """Where ``op`` reads for every box, against where it should.

    Raises:
        UserError: an output size under 2 for the legacy operator, which divides by it less 1.
    """
    s = strides_of(boxes, stride)
    maps = [torch.from_numpy(np.ceil(boxes.sizes[:, i] / s)) for i in (0, 1)]
    scale = torch.from_numpy(1 / s)
    where = op.geometry(torch.from_numpy(boxes.xyxy), scale, (output_size, output_size), maps)
    if output_size < where.y.least:
        raise UserError(f"{op.kind} needs --output-size {where.y.least} or more")
    centre_moves, covered, spans, full = [], [], [], []
    for axis in (0, 1):
        low, high = boxes.xyxy[:, 1 - axis], boxes.xyxy[:, 3 - axis]
        reads = where.x if axis else where.y
        bins = bins_of(reads)
        want = ideal_edges(low, high, output_size)
        centre_moves.append(to_pixels(bins.centres, s[:, None], cells) - (want[0] + want[1]) / 2)
        first, last = (to_pixels(v, s, cells) for v in (bins.low.min(1), bins.high.max(1)))
        covered.append(np.maximum(np.minimum(last, high) - np.maximum(first, low), 0))
        spans.append(last - first)
        full.append((bins.high > bins.low) | (not isinstance(reads, CellAxis)))
    y, x = centre_moves
    area = np.prod(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], axis=1)
    both = covered[0] * covered[1]
    offset = np.hypot(y[:, :, None], x[:, None, :]).mean((1, 2))
    return Misalignment(
        offset=offset,
        share=offset / np.sqrt(area),
        iou=both / (area + spans[0] * spans[1] - both),
        empty=1 - full[0].mean(1) * full[1].mean(1),
        moves=np.concatenate(centre_moves, axis=1),
        stride=s,
    )


def size_groups(boxes: Boxes) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """("all", ...) and COCO's three sizes, each with bool [K]; sizes without a box are left out."""
    yield "all", np.ones(len(boxes), dtype=np.bool_)
    area = np.prod(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], axis=1)
    for name, (low, high) in SIZES.items():
        inside = (area >= low) & (area < high)
        if inside.any():
            yield name, inside


def measure(
    boxes: Boxes,
    ops: Sequence[RoIOperator],
    strides: Sequence[Stride],
    output_size: int = 7,
    cells: Cells = "centre",
) -> list[OperatorRow]:
    """Every operator at every stride, in sizes: the table's rows, by stride, then operator, then size.

    Raises:
        UserError: as :func:`misalignment`.
    """
    groups = list(size_groups(boxes))
    rows = []
    for stride in strides:
        for op in ops:
            m = misalignment(boxes, op, stride, output_size, cells)
            rows += [_row(op, stride, name, m, inside) for name, inside in groups]
    return rows


def _row(
    op: RoIOperator, stride: Stride, size: str, m: Misalignment, inside: npt.NDArray[np.bool_]
) -> OperatorRow:
    moves, stride_of_box = m.moves[inside], m.stride[inside, None]
    in_cells = moves / stride_of_box
    about = (in_cells - in_cells.mean(0)) * stride_of_box
    cuts = (10, 25, 50, 75, 90)
    offset, iou = m.offset[inside], m.iou[inside]
    quantiles = tuple(np.percentile(offset, cuts).tolist()), tuple(np.percentile(iou, cuts).tolist())
    return OperatorRow(
        op=op,
        stride=stride,
        size=size,
        boxes=len(offset),
        offset=float(offset.mean()),
        offset_p90=quantiles[0][4],
        share=float(m.share[inside].mean()),
        bias=float(moves.mean()),
        noise=float(np.sqrt((about**2).mean())),
        iou=float(iou.mean()),
        empty=float(m.empty[inside].mean()),
        quantiles=quantiles,
    )
