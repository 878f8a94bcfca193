"""Where a box and its bins should lie on a map, and where an RoI operator reads: pixels, cells, numpy.

What an operator reads it tells itself (:mod:`maskrcnn.layers.geometry`); here in float64, for a hundred
thousand boxes at once.

Coordinates.  *Cell coordinates* are continuous: cell i of a map covers [i, i + 1) and its value sits in the
middle, at i + 0.5.  Pixels follow by :func:`to_pixels`, under one of two readings of where a cell lies in the
image (``cells``):

``centre``: cell i covers the pixels [i s, (i + 1) s) at stride s, its value sits at (i + 0.5) s.  True of
    networks that shrink by 2 x 2 pooling (VGG); the reading of RoIAlign with ``aligned``.
``corner``: the value of cell i sits at i s.  True, to half a pixel, of networks that shrink by
    odd kernels with padding (ResNet); the reading of RoIAlign without ``aligned``, and of PrRoI pooling.

Legend: K boxes, P bins along the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from maskrcnn.layers.geometry import Axis

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


def bins_of(axis: Axis) -> AxisBins:
    """In numpy."""
    return AxisBins(*(edge.numpy() for edge in (*axis.region, *axis.edges)))
