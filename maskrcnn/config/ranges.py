"""Which numbers a config field takes, said at the field: ``nms_threshold: Share = 0.5``.

The upper ends are generous ones, so that a slip of some zeros does not take a machine down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The finite numbers that a field takes, in ``tuple[Annotated[float, Range(0, 1)], ...]``.

    least, most: the ends, which belong to it.
    why: reason of the upper end, a phrase; where there is no end at all, reason for that.
    above, below: ends that do not belong to it, in place of ``least`` and ``most``.
    """

    least: float = -math.inf
    most: float = math.inf
    why: str = ""
    above: float = -math.inf
    below: float = math.inf

    def fault(self, value: float) -> str:
        """``must be >= 1, got 0``; empty for a number that is taken.

        A whole number has at most 64 bits, which is what tensors hold.
        """
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, got {value}"
        if value < self.least or value <= self.above:
            return f"must be {self.words(lower=bool(self.why))}, got {value}"
        if value > self.most or value >= self.below:
            if self.why:
                return f"must be at most {self.most:,}, got {value}: {self.why}"
            return f"must be {self.words()}, got {value}"
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return f"must be a number of 64 bits, got {value}"
        return ""

    def words(self, lower: bool = False) -> str:
        """``in [0, 1)``, ``>= 1``; empty where it has no ends.  ``lower``: the lower end alone."""
        low, high = max(self.least, self.above), min(self.most, self.below)
        if math.isfinite(low) and math.isfinite(high) and not lower:
            left, right = "(" if low == self.above else "[", ")" if high == self.below else "]"
            return f"in {left}{low:,}, {high:,}{right}"
        if math.isfinite(low):
            return f"{'>' if low == self.above else '>='} {low:,}"
        return f"{'<' if high == self.below else '<='} {high:,}" if math.isfinite(high) else ""


def any_number(why: str) -> Range:
    """All finite numbers, and why."""
    return Range(why=why)


#: Sides, factors, penalties.
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
#: A part of one: a probability, a fraction, an IoU, a score.
Share = Annotated[float, Range(0, 1)]
#: How many boxes an image, each of which non-maximum suppression compares with each: 1.25 GB for 100,000.
#: (Published models have at most 12,000.)
Boxes = Annotated[int, Range(1, 100_000, "so many boxes an image fill the memory")]
#: Side of an image, pixels; an image of 16,384 x 16,384 is 3.2 GB in float32.
Side = Annotated[int, Range(1, 16_384, "an image of that size fills the memory; cut it into tiles")]
#: Channels of a layer; published networks have at most 12,544.
Width = Annotated[int, Range(1, 2**20, "no memory holds a layer of that width")]
#: How many layers of a kind follow each other, none or more.
Layers = Annotated[int, Range(0, 1000, "no memory holds so many layers")]
#: Side of RoI features or masks, cells; published heads have at most 56.
Cells = Annotated[int, Range(1, 1024, "no memory holds RoIs of that many cells")]
#: Steps, images, things that are counted, at least one.
Count = Annotated[int, Range(above=0)]
