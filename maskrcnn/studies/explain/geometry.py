"""Where an RoI operator reads, from its definition: bins, samples and the weight of every cell.

Everything is float64 numpy and one axis at a time, so that a hundred thousand boxes cost little; the tests
hold it to the operators themselves.

Coordinates.  *Cell coordinates* are continuous: cell i of a map covers [i, i + 1) and its value sits in the
middle, at i + 0.5.  An operator that samples "at y" in the sense of an array index therefore reads at
y + 0.5 here.  Pixels follow by :func:`to_pixels`, under one of two readings of where a cell lies in the
image (``cells``):

``centre``: cell i covers the pixels [i s, (i + 1) s) at stride s, its value sits at (i + 0.5) s.  True of
    networks that shrink by 2 x 2 pooling (VGG); the reading of RoIAlign with ``aligned``.
``corner``: the value of cell i sits at i s.  True, to half a pixel, of networks that shrink by
    odd kernels with padding (ResNet); the reading of RoIAlign without ``aligned``, and of PrRoI pooling.

Legend: K boxes, P bins along the axis, L cells of the map along the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from maskrcnn.layers.reference import MAX_RANDOM_SIDE
from maskrcnn.studies.explain.ops import ExplainedOp

Cells = Literal["centre", "corner"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AxisBins:
    """Bins of K boxes along one axis, in cell coordinates.

    region_low, region_high: [K], the region that the operator takes for the box, before it cuts bins.
    low, high: [K, P], edges of the bins that it then reads; equal where a bin is empty or a bare point.
    """

    region_low: Floats
    region_high: Floats
    low: Floats
    high: Floats

    @property
    def centres(self) -> Floats:
        """[K, P]."""
        return (self.low + self.high) / 2


def cell_shift(cells: Cells) -> float:
    """What to add to pixels / stride to get a cell coordinate."""
    return 0.5 if cells == "corner" else 0.0


def to_pixels(position: Floats, stride: Floats | float, cells: Cells = "centre") -> Floats:
    """Image pixels of cell coordinates; ``stride`` broadcasts."""
    return (position - cell_shift(cells)) * stride


def to_cells(pixels: Floats, stride: Floats | float, cells: Cells = "centre") -> Floats:
    """Cell coordinates of image pixels; ``stride`` broadcasts."""
    return pixels / stride + cell_shift(cells)


def ideal_edges(low: Floats, high: Floats, bins: int) -> tuple[Floats, Floats]:
    """Where the bins should be: [K] edges of the boxes -> [K, P] low and high edges of P equal parts."""
    low, high = low[:, None], high[:, None]
    p = np.arange(bins)
    return low + (high - low) * (p / bins), low + (high - low) * ((p + 1) / bins)


def round_half_away(x: Floats) -> Floats:
    """C's ``round``: halves go away from zero."""
    whole = np.trunc(x)
    rounded: Floats = whole + np.sign(x) * (np.abs(x - whole) >= 0.5)
    return rounded


def axis_bins(
    op: ExplainedOp,
    low: Floats,
    high: Floats,
    stride: Floats | float,
    bins: int,
    length: npt.NDArray[np.int64] | int | None = None,
) -> AxisBins:
    """Bins of ``op`` along one axis.

    Args:
        low, high: [K], the boxes' edges, pixels.
        stride: pixels a cell; one, or [K].
        bins: P.
        length: cells of the map, one or [K]; RoIPool clips its bins to it, the others read outside it as
            their padding rule says and keep their place.
    """
    scale = 1.0 / np.asarray(stride, dtype=np.float64)
    first, last = low * scale, high * scale
    if op.kind == "roi_pool":
        return _pool_bins(op, first, last, bins, length)
    p = np.arange(bins)
    if op.kind == "roi_warp":
        start = round_half_away(first)
        size = np.maximum(round_half_away(last) - start + 1, 1)
        # The whole cells start .. start + size - 1 are [start, start + size); but the samples are taken at
        # array indices, half a cell further on.
        region = start, start + size
    else:
        start, size = first, last - first
        if op.kind == "roi_align":
            start = first - (0.5 if op.aligned else 0.0)
            size = last - first if op.aligned else np.maximum(size, 1)
        elif op.kind == "prroi_pool":
            size = np.maximum(size, 0)
        else:
            size = np.maximum(size + 1, 0)
        region = start + 0.5, start + 0.5 + size
    if op.kind == "roi_align_legacy" and not op.pooled:
        points = 0.5 + start[:, None] + p * (size / (bins - 1))[:, None]
        return AxisBins(*region, points, points)
    edge = start[:, None] + np.arange(bins + 1) * (size / bins)[:, None] + 0.5
    return AxisBins(*region, edge[:, :-1], edge[:, 1:])


def _pool_bins(
    op: ExplainedOp, first: Floats, last: Floats, bins: int, length: npt.NDArray[np.int64] | int | None
) -> AxisBins:
    """RoIPool: whole cells; see :func:`maskrcnn.layers.roi_pool` for the three roundings and cuts."""
    if op.rounding == "sppnet":
        start, end = np.floor(first) + 1, np.ceil(last) - 1
    else:
        quantise = round_half_away if op.rounding == "round" else np.floor
        start, end = quantise(first), quantise(last)
    p = np.arange(bins)
    if op.bins == "overlap":
        side = np.maximum(end - start + 1, 1)
        size = (side / bins)[:, None]
        low, high = np.floor(p * size), np.ceil((p + 1) * size)
    elif op.bins == "partition":
        side = np.maximum(end - start, 0)
        low, high = np.floor(p * side[:, None] / bins), np.floor((p + 1) * side[:, None] / bins)
    else:
        side = np.maximum(end - start, 0)
        size = np.floor(side / bins)[:, None]
        low, high = p * size, (p + 1) * size
    low, high = start[:, None] + low, start[:, None] + high
    if length is not None:
        limit = np.asarray(length, dtype=np.float64).reshape(-1, 1)
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    return AxisBins(start, start + side, low, high)


def sample_count(op: ExplainedOp, low: float, high: float, stride: float, bins: int) -> int:
    """Samples a bin along one axis of one box, for the operators that sample; 0 for the others."""
    if op.kind == "roi_align_legacy":
        return 2 if op.pooled else 1
    if op.kind not in ("roi_align", "roi_warp"):
        return 0
    if op.sampling_ratio > 0:
        return op.sampling_ratio
    axis = axis_bins(op, np.array([low]), np.array([high]), stride, bins)
    # The region's size is a difference of sums: 7.000000000000001 cells are 7.
    count = max(int(np.ceil(np.round((axis.region_high - axis.region_low)[0] / bins, 9))), 0)
    return min(count, MAX_RANDOM_SIDE) if op.samples == "random" else count


def axis_points(op: ExplainedOp, low: float, high: float, stride: float, bins: int) -> Floats:
    """Where one box is sampled along one axis: [P, samples], cell coordinates.

    Empty for RoIPool and PrRoI pooling, which do not sample.  Not for random samples, whose two coordinates
    are drawn together: see :func:`maskrcnn.studies.explain.region.sample_points`.
    """
    count = sample_count(op, low, high, stride, bins)
    axis = axis_bins(op, np.array([low]), np.array([high]), stride, bins)
    if op.kind == "roi_align_legacy":
        return np.stack([axis.low[0], axis.high[0]][:count], axis=1)
    fraction = (np.arange(count) + 0.5) / max(count, 1)
    points: Floats = axis.low[0][:, None] + (axis.high - axis.low)[0][:, None] * fraction
    return points


def axis_weights(op: ExplainedOp, low: float, high: float, stride: float, bins: int, length: int) -> Floats:
    """What each cell of the map counts in each bin along one axis of one box: [P, L].

    A two-dimensional bin's weights are products of the two axes'.  RoIPool takes a maximum: its weights are
    1 for the cells that take part.  Not for random samples.
    """
    cell = np.arange(length)
    if op.kind == "roi_pool":
        axis = axis_bins(op, np.array([low]), np.array([high]), stride, bins, length)
        member: Floats = ((cell >= axis.low[0][:, None]) & (cell < axis.high[0][:, None])).astype(np.float64)
        return member
    if op.kind == "prroi_pool":
        axis = axis_bins(op, np.array([low]), np.array([high]), stride, bins)
        a, b = axis.low[0][:, None], axis.high[0][:, None]
        size = np.maximum(b - a, 0)
        integral = _hat_integral(b - cell - 0.5) - _hat_integral(a - cell - 0.5)
        mean_hat: Floats = np.where(size > 0, integral / np.where(size > 0, size, 1), 0.0)
        return mean_hat
    points = axis_points(op, low, high, stride, bins)
    weigh = legacy_weights if op.kind == "roi_align_legacy" else bilinear_weights
    total: Floats = weigh(points.reshape(-1), length).reshape(bins, -1, length).sum(1)
    mean_weights: Floats = total / max(points.shape[1], 1)
    return mean_weights


def bilinear_weights(points: Floats, length: int) -> Floats:
    """Weights [S, L] of bilinear samples at cell coordinates ``points`` [S], as RoIAlign takes them.

    A sample over one cell outside the outermost values counts as 0; within, it takes the border's value.
    """
    index = points - 0.5
    inside = (index >= -1) & (index <= length)
    index = np.clip(index, 0, length - 1)[:, None]
    hat = np.maximum(0.0, 1 - np.abs(index - np.arange(length)))
    weights: Floats = hat * inside[:, None]
    return weights


def legacy_weights(points: Floats, length: int) -> Floats:
    """The same for the legacy operator: 0 outside [0, L), extrapolated beyond the last value."""
    index = points - 0.5
    inside = (index >= 0) & (index < length)
    left = np.clip(np.floor(index), 0, length - 2)[:, None]
    fraction = index[:, None] - left
    cell = np.arange(length)
    weights: Floats = ((cell == left) * (1 - fraction) + (cell == left + 1) * fraction) * inside[:, None]
    return weights


def _hat_integral(t: Floats) -> Floats:
    """Integral of max(0, 1 - |t|) from -infinity."""
    t = np.clip(t, -1.0, 1.0)
    total: Floats = np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)
    return total
