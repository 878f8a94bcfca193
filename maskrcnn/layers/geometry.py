"""Where RoI operators read, written once: bins, samples and the weight of every cell, one axis at a time.

The slow twins (``reference.py``) compute with it and ``maskrcnn explain-roi`` draws it.  All is in the dtype
of the boxes, each expression in the order of the compiled ``csrc/roi_align.h`` and ``csrc/roi_pool.h``.

Two coordinates.  *Indices*: the value of cell i sits at i; samples are told so.  *Cell coordinates*: cell i
covers [i, i + 1), its value sits at i + 0.5; the edges of regions and bins are told so.

Legend: K boxes, P x Q bins (P also: bins along an axis), S samples a bin, L cells of a map along an axis.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["round", "floor", "sppnet"]
Bins = Literal["overlap", "partition", "truncate"]

#: Bin geometries; the numbers are shared with csrc/roi_align.h.
PLAIN, ALIGNED, WARP, LEGACY, PRECISE = range(5)

#: In random mode at most this many samples a side are drawn when the count is adaptive.
MAX_RANDOM_SIDE = 64

_MASK32 = 0xFFFFFFFF


def round_half_away(x: Tensor) -> Tensor:
    """C's ``round`` of ``x`` [...] -> [...]: halves go away from zero (``torch.round``: to even)."""
    whole = x.trunc()
    return whole + torch.sign(x) * ((x - whole).abs() >= 0.5)


class Axis(ABC):
    """P bins of K boxes along one axis."""

    #: What is read of a bin, for people.
    reads: str = ""
    #: Whether the box is rounded to whole cells.
    rounds: bool = False
    #: Whether a cell's value counts as in its middle, so that pixel x is x / stride in cell coordinates.
    centred: bool = False
    #: The fewest bins, and cells of a map, that there may be.
    least: int = 1

    @property
    @abstractmethod
    def region(self) -> tuple[Tensor, Tensor]:
        """Edges [K] of what is taken for the box before bins are cut, cell coordinates."""

    @property
    @abstractmethod
    def edges(self) -> tuple[Tensor, Tensor]:
        """Low and high edges [K, P] of the bins, cell coordinates; equal where one is empty or a point."""

    @abstractmethod
    def weights(self, k: int, length: int) -> Tensor:
        """What each of ``length`` cells counts in each bin of box k: [P, L]; of a maximum, 1 or 0."""

    def points(self, k: int) -> Tensor:
        """Where box k is sampled, [P, S], indices; S = 0 where nothing is sampled."""
        return self.edges[0][k][:, None][:, :0]

    def count(self, k: int) -> int:
        """S of box k."""
        return self.points(k).shape[1]


@dataclass(frozen=True, eq=False)
class EvenAxis(Axis):
    """Bins of one size.

    start, size: [K], where the first bin begins and what all take together, indices.  bins: P.
    """

    start: Tensor
    size: Tensor
    bins: int

    @property
    def region(self) -> tuple[Tensor, Tensor]:
        """Edges [K]; see :class:`Axis`."""
        return self.start + 0.5, self.start + 0.5 + self.size

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Low and high [K, P]; see :class:`Axis`."""
        step = (self.size / self.bins)[:, None]
        edge = self.start[:, None] + _range(self.bins + 1, self.start) * step + 0.5
        return edge[:, :-1], edge[:, 1:]


@dataclass(frozen=True, eq=False)
class SampledAxis(EvenAxis):
    """Bilinear samples, evenly spaced in each bin (RoIAlign, RoIWarp); counts: int64 [K], S."""

    counts: Tensor
    centred: bool = False
    rounds: bool = False

    @property
    def region(self) -> tuple[Tensor, Tensor]:
        """Edges [K]; see :class:`Axis`."""
        # The whole cells start .. start + size - 1; the samples lie half a cell further on.
        return (self.start, self.start + self.size) if self.rounds else super().region

    def points(self, k: int) -> Tensor:
        """[P, S]; see :class:`Axis`."""
        start, step, count = self.start[k], self.size[k] / self.bins, self.count(k)
        p, i = _range(self.bins, self.start)[:, None], _range(count, self.start)
        return start + p * step + (i + 0.5) * step / count

    def random_points(self, k: int, fractions: Tensor) -> Tensor:
        """Points [P, Q, S] at ``fractions`` [P, Q, S] of this axis' bins, indices."""
        start, step = self.start[k], self.size[k] / self.bins
        return start + _range(self.bins, self.start)[:, None, None] * step + fractions * step

    def count(self, k: int) -> int:
        return int(self.counts[k])

    def points_on_map(self, k: int, length: int) -> list[Tensor]:
        """Those of :meth:`points` on a map, P times [S or fewer]; never makes the billions that are not."""
        start, step, count = self.start[k], self.size[k] / self.bins, self.count(k)
        result = []
        for p in range(self.bins):
            base = start + p * step
            gap = float(step) / count if count else 0.0
            first, last = 0, count
            if gap > 0:
                slack = (abs(float(base)) + abs(float(start))) * 1e-6 / gap + 3
                first = min(max(math.floor((-1 - float(base)) / gap - slack), 0), count)
                last = min(max(math.ceil((length - float(base)) / gap + slack), first), count)
            index = torch.arange(first, last, device=self.start.device, dtype=self.start.dtype)
            position = base + (index + 0.5) * step / max(count, 1)
            result.append(position[on_map(position, length)])
        return result

    def weights(self, k: int, length: int) -> Tensor:
        """[P, L]; see :class:`Axis`."""
        rows = [bilinear_rows(points, length).sum(0) for points in self.points_on_map(k, length)]
        return torch.stack(rows) / max(self.count(k), 1)


@dataclass(frozen=True, eq=False)
class PointAxis(EvenAxis):
    """Bare samples (the legacy RoIAlign), or, ``pooled``, bins that are the means of their edges' samples."""

    pooled: bool = False
    least = 2

    @property
    def reads(self) -> str:  # type: ignore[override]
        return "samples at the corners of the bins" if self.pooled else "one sample a bin"

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Low and high [K, P]; see :class:`Axis`."""
        if self.pooled:
            return super().edges
        step = (self.size / (self.bins - 1))[:, None]
        point = self.start[:, None] + _range(self.bins, self.start) * step + 0.5
        return point, point

    def samples(self, k: int) -> Tensor:
        """[P], or [P + 1] if pooled; indices."""
        step = self.size[k] / (self.bins - (not self.pooled))
        return _range(self.bins + self.pooled, self.start) * step + self.start[k]

    def points(self, k: int) -> Tensor:
        """[P, S], S = 2 if pooled, else 1; see :class:`Axis`."""
        samples = self.samples(k)
        return torch.stack((samples[:-1], samples[1:]), dim=1) if self.pooled else samples[:, None]

    def weights(self, k: int, length: int) -> Tensor:
        """[P, L]: 0 for samples outside [0, L), extrapolated beyond the last value."""
        point = self.samples(k)
        inside = (point >= 0) & (point < length)
        left = point.floor().clamp(min=0, max=length - 2)
        fraction = point - left
        cell = torch.arange(length, device=point.device)[None]
        weight = (cell == left[:, None]) * (1 - fraction[:, None])
        weight = weight + (cell == left[:, None] + 1) * fraction[:, None]
        weight = weight * inside[:, None]
        return (weight[:-1] + weight[1:]) / 2 if self.pooled else weight


@dataclass(frozen=True, eq=False)
class IntegralAxis(EvenAxis):
    """The bilinear surface over each bin, integrated exactly (PrRoI pooling)."""

    reads = "exact integral, no samples"

    def weights(self, k: int, length: int) -> Tensor:
        """[P, L]; see :class:`Axis`."""
        start, size = self.start[k], self.size[k] / self.bins
        a = (start + _range(self.bins, self.start) * size)[:, None]
        b = a + size
        cell = _range(length, self.start)[None]
        u, v = torch.maximum(a, cell - 1), torch.minimum(b, cell)  # the rising half of the hat
        rising = (v - u).clamp(min=0) * ((u + v) / 2 - (cell - 1))
        u, v = torch.maximum(a, cell), torch.minimum(b, cell + 1)  # the falling half
        falling = (v - u).clamp(min=0) * ((cell + 1) - (u + v) / 2)
        positive = size > 0
        return torch.where(positive, (rising + falling) / torch.where(positive, size, 1), 0.0)


@dataclass(frozen=True, eq=False)
class CellAxis(Axis):
    """Bins of whole cells, of which the maximum is taken (RoIPool).

    start, side: [K], the rounded box.  low, high: [K, P], half-open.  All float64.
    equal: whether all bins have the same number of cells.
    """

    start: Tensor
    side: Tensor
    low: Tensor
    high: Tensor
    equal: bool
    rounds = True
    centred = True

    @property
    def region(self) -> tuple[Tensor, Tensor]:
        """Edges [K]; see :class:`Axis`."""
        return self.start, self.start + self.side

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Low and high [K, P]; see :class:`Axis`."""
        return self.low, self.high

    def weights(self, k: int, length: int) -> Tensor:
        """[P, L]; see :class:`Axis`."""
        cell = _range(length, self.low)
        return ((cell >= self.low[k][:, None]) & (cell < self.high[k][:, None])).to(self.low)


def sampled_axis(
    low: Tensor,
    high: Tensor,
    scale: Tensor | float,
    bins: int,
    geometry: int,
    ratio: int,
    random: bool = False,
) -> SampledAxis:
    """The axis of RoIAlign or RoIWarp.

    Args:
        low, high: [K], the boxes' edges, pixels.
        scale: cells a pixel, [K] or one.
        bins: P.
        geometry: PLAIN, ALIGNED or WARP.
        ratio: samples a bin; 0 or less takes ceil(size of a bin).
        random: they are drawn at random: :data:`MAX_RANDOM_SIDE` at most where they are not given.
    """
    if geometry == WARP:
        start = round_half_away(low * scale)
        size = (round_half_away(high * scale) - start + 1).clamp(min=1)
    else:
        offset = 0.5 if geometry == ALIGNED else 0.0
        start = low * scale - offset
        size = high * scale - offset - start
        if geometry == PLAIN:
            size = size.clamp(min=1)
    counts = torch.full_like(start, ratio) if ratio > 0 else (size / bins).ceil()
    counts = counts.clamp(min=0, max=MAX_RANDOM_SIDE if random and ratio <= 0 else 2.0**30).long()
    return SampledAxis(start, size, bins, counts, centred=geometry == ALIGNED, rounds=geometry == WARP)


def point_axis(low: Tensor, high: Tensor, scale: Tensor | float, bins: int) -> PointAxis:
    """The axis of the legacy RoIAlign's samples: ``low``, ``high`` [K]; the rest as :func:`sampled_axis`."""
    start, end = low * scale, high * scale
    return PointAxis(start, (end - start + 1).clamp(min=0), bins)


def integral_axis(low: Tensor, high: Tensor, scale: Tensor | float, bins: int) -> IntegralAxis:
    """The axis of PrRoI pooling: ``low``, ``high`` [K]; the rest as of :func:`sampled_axis`."""
    start, end = low * scale, high * scale
    return IntegralAxis(start, (end - start).clamp(min=0), bins)


def cell_axis(
    low: Tensor,
    high: Tensor,
    scale: Tensor | float,
    bins: int,
    rounding: Rounding,
    cut: Bins,
    length: Tensor | int | None = None,
) -> CellAxis:
    """The axis of RoIPool; see :func:`maskrcnn.layers.roi_pool` for the three roundings and cuts.

    Args:
        low, high, scale, bins: as of :func:`sampled_axis`.
        length: cells of the map, one or [K]: bins are clipped to it.
    """
    first, last = low * scale, high * scale
    if rounding == "sppnet":
        start, end = first.floor() + 1, last.ceil() - 1
    else:
        quantise = round_half_away if rounding == "round" else torch.floor
        start, end = quantise(first), quantise(last)
    start, end = start.double(), end.double()  # whole numbers, exact up to 2^53
    p = torch.arange(bins, device=low.device)
    if cut == "overlap":
        side = (end - start + 1).clamp(min=1)
        size = side.to(low.dtype)[:, None] / bins
        a, b = (p * size).floor().double(), ((p + 1) * size).ceil().double()
    else:
        side = (end - start).clamp(min=0)
        if cut == "partition":
            a, b = ((q * side[:, None] / bins).floor() for q in (p, p + 1))
        else:
            a, b = (q * (side / bins).floor()[:, None] for q in (p, p + 1))
    a, b = a + start[:, None], b + start[:, None]
    if length is not None:
        most = torch.as_tensor(length, dtype=a.dtype, device=a.device).reshape(-1, 1)
        a, b = (torch.minimum(edge.clamp(min=0), most) for edge in (a, b))
    return CellAxis(start, side, a, b, equal=cut == "truncate")


@dataclass(frozen=True, eq=False)
class Geometry:
    """What K boxes read: both axes, and where random samples are drawn from (None: they are regular)."""

    y: Axis
    x: Axis
    seed: int | None = None

    def points(self, k: int) -> tuple[Tensor, Tensor]:
        """y and x [P, Q, S] of the samples of box k, indices."""
        y, x = self.y, self.x
        if self.seed is not None and isinstance(y, SampledAxis) and isinstance(x, SampledAxis):
            shape = (y.bins, x.bins, y.count(k) * x.count(k))
            drawn = random_fractions(self.seed, k, shape[0] * shape[1], shape[2])
            fy, fx = (f.to(y.start).view(shape) for f in drawn)
            return y.random_points(k, fy), x.random_points(k, fx.transpose(0, 1)).transpose(0, 1)
        ys, xs = self.y.points(k), self.x.points(k)
        grid = torch.broadcast_tensors(ys[:, None, :, None], xs[None, :, None, :])
        return grid[0].flatten(2), grid[1].flatten(2)

    def weights(self, k: int, height: int, width: int) -> Tensor:
        """What every cell counts in every bin of box k: [P, Q, H, W]; of a maximum, 1 or 0."""
        if self.seed is None:
            return torch.einsum("ph,qw->pqhw", self.y.weights(k, height), self.x.weights(k, width))
        y, x = self.points(k)
        rows, columns = bilinear_rows(y, height), bilinear_rows(x, width)
        return torch.einsum("pqsh,pqsw->pqhw", rows, columns) / max(y.shape[2], 1)

    def times_read(self, k: int, height: int, width: int) -> Tensor:
        """In how many bins (random: samples) of box k each cell takes part: [H, W]."""
        if self.seed is None:
            y, x = ((w != 0).sum(0) for w in (self.y.weights(k, height), self.x.weights(k, width)))
            return torch.outer(y, x).double()
        y, x = (p.flatten() for p in self.points(k))
        return (bilinear_rows(y, height) != 0).double().T @ (bilinear_rows(x, width) != 0).double()


def on_map(position: Tensor, length: int) -> Tensor:
    """Which samples count, since they lie in a cell of a map: indices ``position`` [...] -> bool [...]."""
    return (position >= -1) & (position <= length)


def taps(position: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples at ``position`` [...] -> int64 lower and upper cell and the weight of the upper, each [...].

    Beyond the outermost values it is the border's.
    """
    position = position.clamp(min=0, max=length - 1)
    low = position.floor().long()
    return low, (low + 1).clamp(max=length - 1), position - low


def bilinear_rows(position: Tensor, length: int) -> Tensor:
    """Samples at ``position`` [...] -> what each cell counts in them, [..., length]; 0 off the map."""
    low, high, fraction = taps(position, length)
    rows = position.new_zeros((*position.shape, length))
    rows.scatter_add_(-1, low[..., None], (1 - fraction)[..., None])
    rows.scatter_add_(-1, high[..., None], fraction[..., None])
    return rows * on_map(position, length)[..., None]


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


def _range(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device, dtype=like.dtype)
