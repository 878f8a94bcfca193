"""What the picture of RoI operators shows, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class AxisView:
    """One axis of what an operator reads for a box; all positions in pixels of the image.

    low, high: [P], edges of the bins as read; equal where a bin is empty or a bare point.
    ideal: [P + 1], where the bins should be cut.  cells: [n + 1], edges of the map's cells.
    """

    low: Floats
    high: Floats
    ideal: Floats
    cells: Floats

    @property
    def centres(self) -> Floats:
        """[P], of the bins as read."""
        return (self.low + self.high) / 2

    @property
    def wanted(self) -> Floats:
        """[P], where the centres should be."""
        return (self.ideal[:-1] + self.ideal[1:]) / 2

    @property
    def offsets(self) -> Floats:
        """[P], how far each centre is off."""
        return self.centres - self.wanted


@dataclass(frozen=True)
class OperatorView:
    """What one operator reads for a box: a column of the picture.

    name: heading.  facts: lines below; the last sums up.
    box: xyxy, pixels.  image_size: (height, width), pixels.
    readers: [H, W], how many bins read each cell of the map; overlap is shaded up to 3.
    samples: [S, 2] as (y, x), pixels; none where the operator does not sample or where there are too many.
    rounded: the whole cells that the box was rounded to, xyxy, where the bins cover other ground; or None.
    """

    name: str
    facts: Sequence[str]
    box: Box
    image_size: tuple[int, int]
    y: AxisView
    x: AxisView
    readers: Floats
    samples: Floats
    rounded: Box | None

    @property
    def stride(self) -> float:
        """Pixels a cell."""
        return float(self.x.cells[1] - self.x.cells[0])

    @property
    def effective(self) -> Box:
        """What the bins cover together, xyxy."""
        x, y = self.x, self.y
        return float(x.low.min()), float(y.low.min()), float(x.high.max()), float(y.high.max())

    @property
    def is_off(self) -> bool:
        """Whether the bins' centres are off by more than rounding of numbers, on average."""
        return float(np.hypot(self.y.offsets[:, None], self.x.offsets[None]).mean()) > 0.05
