"""One box under one operator, on both axes: what a picture shows and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maskrcnn.errors import UserError
from maskrcnn.layers.reference import random_fractions
from maskrcnn.studies.explain.geometry import (
    AxisBins,
    Cells,
    Floats,
    axis_bins,
    axis_points,
    axis_weights,
    bilinear_weights,
    ideal_edges,
    sample_count,
    to_cells,
    to_pixels,
)
from maskrcnn.studies.explain.ops import ExplainedOp


@dataclass(frozen=True)
class BoxOnMap:
    """A box in an image, and the feature map it is pooled from.

    box: (x1, y1, x2, y2), pixels.  image_size: (height, width), pixels.
    stride: pixels a cell.  output_size: (P, Q) bins.  cells: see :mod:`maskrcnn.studies.explain.geometry`.

    Raises:
        UserError: a number that makes no sense, or a box that does not meet the image.
    """

    box: tuple[float, float, float, float]
    image_size: tuple[int, int]
    stride: int
    output_size: tuple[int, int] = (7, 7)
    cells: Cells = "centre"

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.box
        h, w = self.image_size
        shown = " ".join(f"{v:g}" for v in self.box)
        if not np.isfinite(self.box).all():
            raise UserError(f"--box {shown}: the coordinates must be finite numbers")
        if x2 <= x1 or y2 <= y1:
            raise UserError(f"--box {shown} has no area; write it as x1 y1 x2 y2 with x1 < x2 and y1 < y2")
        if x1 >= w or y1 >= h or x2 <= 0 or y2 <= 0:
            raise UserError(f"--box {shown} lies outside the image of {w}×{h} pixels")
        if self.stride < 1 or min(self.output_size) < 1:
            raise UserError("--stride and --output-size must be at least 1")

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the map, cells: the image is padded up to a multiple of the stride."""
        h, w = self.image_size
        return -(-h // self.stride), -(-w // self.stride)

    def in_cells(self, pixels: float) -> float:
        """Cell coordinate of a pixel coordinate."""
        return float(to_cells(np.float64(pixels), self.stride, self.cells))


@dataclass(frozen=True)
class Region:
    """What ``op`` reads for a box.  ``x`` and ``y`` lie along the axes, in cells; offsets are in pixels."""

    op: ExplainedOp
    where: BoxOnMap

    def __post_init__(self) -> None:
        if self.op.kind == "roi_align_legacy" and min(*self.where.map_size, *self.where.output_size) < 2:
            raise UserError("roi_align_legacy needs an output and a feature map of at least 2 cells a side")

    def _edges(self, axis: int) -> tuple[float, float]:
        """Pixels of the box along axis 0 (y) or 1 (x)."""
        return self.where.box[1 - axis], self.where.box[3 - axis]

    def _bins(self, axis: int) -> AxisBins:
        low, high = self._edges(axis)
        return axis_bins(
            self.op,
            np.array([low]),
            np.array([high]),
            self.where.stride,
            self.where.output_size[axis],
            self.where.map_size[axis],
        )

    @cached_property
    def y(self) -> AxisBins:
        return self._bins(0)

    @cached_property
    def x(self) -> AxisBins:
        return self._bins(1)

    @cached_property
    def ideal_y(self) -> tuple[Floats, Floats]:
        """[P] low and high edges of the bins where they should be, cells."""
        return self._ideal(0)

    @cached_property
    def ideal_x(self) -> tuple[Floats, Floats]:
        return self._ideal(1)

    def _ideal(self, axis: int) -> tuple[Floats, Floats]:
        low, high = (np.array([v]) for v in self._edges(axis))
        edges = ideal_edges(low, high, self.where.output_size[axis])
        a, b = (to_cells(e[0], self.where.stride, self.where.cells) for e in edges)
        return a, b

    def offsets(self, axis: int) -> Floats:
        """How far each bin's centre lies from where it should, [P] or [Q] pixels; right, down > 0."""
        got, want = (self.y, self.ideal_y) if axis == 0 else (self.x, self.ideal_x)
        moved: Floats = (got.centres[0] - (want[0] + want[1]) / 2) * self.where.stride
        return moved

    def mean_offset(self) -> float:
        """Mean distance of the bins' centres from where they should be, pixels."""
        return float(np.hypot(self.offsets(0)[:, None], self.offsets(1)[None]).mean())

    @property
    def effective_box(self) -> tuple[float, float, float, float]:
        """The pixels that the bins cover together, xyxy."""
        stride, cells = self.where.stride, self.where.cells
        edges = (self.x.low.min(), self.y.low.min(), self.x.high.max(), self.y.high.max())
        x1, y1, x2, y2 = (float(to_pixels(v, stride, cells)) for v in edges)
        return x1, y1, x2, y2

    def iou(self) -> float:
        """Intersection over union of the box and the effective box."""
        a, b = self.where.box, self.effective_box
        width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
        height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
        areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return width * height / (areas - width * height)

    @property
    def point_count(self) -> int:
        """How many points :meth:`points` has."""
        (P, Q), stride = self.where.output_size, self.where.stride
        return (
            P
            * Q
            * sample_count(self.op, *self._edges(0), stride, P)
            * sample_count(self.op, *self._edges(1), stride, Q)
        )

    def points(self) -> Floats:
        """Sampling points [P, Q, S, 2] as (y, x), cells; S = 0 where the operator does not sample."""
        (y1, y2), (x1, x2) = self._edges(0), self._edges(1)
        (P, Q), stride = self.where.output_size, self.where.stride
        if self.op.kind == "roi_align" and self.op.samples == "random":
            count = sample_count(self.op, y1, y2, stride, P) * sample_count(self.op, x1, x2, stride, Q)
            fy, fx = (f.numpy().reshape(P, Q, count) for f in random_fractions(self.op.seed, 0, P * Q, count))
            y = self.y.low[0][:, None, None] + (self.y.high - self.y.low)[0][:, None, None] * fy
            x = self.x.low[0][None, :, None] + (self.x.high - self.x.low)[0][None, :, None] * fx
            return np.stack([y, x], axis=-1)
        ys = axis_points(self.op, y1, y2, stride, P)
        xs = axis_points(self.op, x1, x2, stride, Q)
        shape = (P, Q, ys.shape[1], xs.shape[1])
        y = np.broadcast_to(ys[:, None, :, None], shape)
        x = np.broadcast_to(xs[None, :, None, :], shape)
        return np.stack([y, x], axis=-1).reshape(P, Q, -1, 2)

    def weights(self) -> Floats:
        """What every cell counts in every bin, [P, Q, H, W]; for RoIPool 1 where a cell takes part."""
        (P, Q), (H, W), stride = self.where.output_size, self.where.map_size, self.where.stride
        if self.op.kind == "roi_align" and self.op.samples == "random":
            points = self.points()
            wy = bilinear_weights(points[..., 0].reshape(-1), H).reshape(P, Q, -1, H)
            wx = bilinear_weights(points[..., 1].reshape(-1), W).reshape(P, Q, -1, W)
            both: Floats = np.einsum("pqsh,pqsw->pqhw", wy, wx) / max(points.shape[2], 1)
            return both
        wy = axis_weights(self.op, *self._edges(0), stride, P, H)
        wx = axis_weights(self.op, *self._edges(1), stride, Q, W)
        product: Floats = np.einsum("ph,qw->pqhw", wy, wx)
        return product

    def times_read(self) -> Floats:
        """In how many bins (random samples: how many samples) each cell of the map takes part: [H, W]."""
        (P, Q), (H, W), stride = self.where.output_size, self.where.map_size, self.where.stride
        if self.op.kind == "roi_align" and self.op.samples == "random":
            points = self.points().reshape(-1, 2)
            wy, wx = bilinear_weights(points[:, 0], H), bilinear_weights(points[:, 1], W)
        else:
            wy = axis_weights(self.op, *self._edges(0), stride, P, H)
            wx = axis_weights(self.op, *self._edges(1), stride, Q, W)
            wy, wx = ((w != 0).sum(0, keepdims=True) for w in (wy, wx))
            return np.outer(wy, wx).astype(np.float64)
        times: Floats = (wy != 0).astype(np.float64).T @ (wx != 0).astype(np.float64)
        return times
