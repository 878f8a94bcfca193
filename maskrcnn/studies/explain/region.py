"""One box under one operator, on both axes: what a picture shows and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from maskrcnn.errors import UserError
from maskrcnn.layers.geometry import Geometry
from maskrcnn.layers.operator import RoIOperator
from maskrcnn.studies.explain.placement import (
    AxisBins,
    Cells,
    Floats,
    bins_of,
    ideal_edges,
    to_cells,
    to_pixels,
)


@dataclass(frozen=True)
class BoxOnMap:
    """A box in an image, and the feature map it is pooled from.

    box: (x1, y1, x2, y2), pixels.  image_size: (height, width), pixels.
    stride: pixels a cell.  output_size: (P, Q) bins.  cells: see :mod:`maskrcnn.studies.explain.placement`.

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

    op: RoIOperator
    where: BoxOnMap

    def __post_init__(self) -> None:
        least = self.reads.y.least
        if min(*self.where.map_size, *self.where.output_size) < least:
            raise UserError(
                f"{self.op.kind} needs an output and a feature map of at least {least} cells a side"
            )

    @cached_property
    def reads(self) -> Geometry:
        """The operator's own word: one box, float64."""
        box = torch.tensor([self.where.box], dtype=torch.float64)
        return self.op.geometry(box, 1.0 / self.where.stride, self.where.output_size, self.where.map_size)

    @cached_property
    def y(self) -> AxisBins:
        return bins_of(self.reads.y)

    @cached_property
    def x(self) -> AxisBins:
        return bins_of(self.reads.x)

    def ideal(self, axis: int) -> tuple[Floats, Floats]:
        """[P] low and high edges of the bins where they should be along y (0) or x (1), cells."""
        low, high = (np.array([self.where.box[i - axis]]) for i in (1, 3))
        edges = ideal_edges(low, high, self.where.output_size[axis])
        a, b = (to_cells(e[0], self.where.stride, self.where.cells) for e in edges)
        return a, b

    def offsets(self, axis: int) -> Floats:
        """How far each bin's centre lies from where it should, [P] or [Q] pixels; right, down > 0."""
        got, want = self.x if axis else self.y, self.ideal(axis)
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
        return int(np.prod(self.where.output_size)) * self.reads.y.count(0) * self.reads.x.count(0)

    def points(self) -> Floats:
        """Sampling points [P, Q, S, 2] as (y, x), cells; S = 0 where the operator does not sample."""
        # Samples are told as indices, half a cell below.
        return (torch.stack(self.reads.points(0), dim=-1) + 0.5).numpy()

    def weights(self) -> Floats:
        """What every cell counts in every bin, [P, Q, H, W]; for RoIPool 1 where a cell takes part."""
        return self.reads.weights(0, *self.where.map_size).numpy()

    def times_read(self) -> Floats:
        """In how many bins (random samples: how many samples) each cell of the map takes part: [H, W]."""
        return self.reads.times_read(0, *self.where.map_size).numpy()
