"""The ways of ``inference.paste`` to draw a mask, in ONNX's notation.

Each is a sum over cells with weights that fall with the distance along each axis, above a threshold
(``onnx_parts``).  They differ in the box that the M x M cells cover, in what is blended, and in the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from maskrcnn.inference.smooth_paste import LIMIT


@dataclass(frozen=True)
class PastingWay:
    """
    boxes: of M: ``own`` [K, 4] to ``over`` [K, 4], what the cells cover.
    grid: ``probabilities`` [K, M, M] to ``grid``, what is blended; 0 beyond the cells.
    kernel: ``{axis}_distance`` in cells to ``{axis}_weights``.
    inside: of ``drawn_all`` [K, H, W], which pixels are of the masks.
    """

    boxes: Callable[[int], str]
    grid: str
    kernel: str
    inside: str


def _own(side: int) -> str:
    return "over = Identity(own)"


def _whole(side: int) -> str:
    """torchvision's: with a ring of cells about the box, from whole pixel to whole pixel."""
    return f"""share = Constant<value = float {{{1 / (side + 2):.9g}}}>()
        wider = Constant<value = float {{{(side + 2) / side:.9g}}}>()
        own_low = Slice(own, zero, two, one)
        own_high = Slice(own, two, four, one)
        own_sides = Sub(own_high, own_low)
        own_sum = Add(own_high, own_low)
        own_halves = Mul(own_sides, half)
        ring_halves = Mul(own_halves, wider)
        middles = Mul(own_sum, half)
        ring_from = Sub(middles, ring_halves)
        ring_to = Add(middles, ring_halves)
        ring_first = Cast<to = 7>(ring_from)
        ring_last = Cast<to = 7>(ring_to)
        ring_apart = Sub(ring_last, ring_first)
        ring_number = Add(ring_apart, one)
        ring_pixels = Cast<to = 1>(ring_number)
        ring_cells = Mul(ring_pixels, share)
        ring_low = Cast<to = 1>(ring_first)
        ring_high = Add(ring_low, ring_pixels)
        over_low = Add(ring_low, ring_cells)
        over_high = Sub(ring_high, ring_cells)
        over = Concat<axis = 1>(over_low, over_high)"""


_LINEAR = "{axis}_near = Sub(unit, {axis}_distance)\n        {axis}_weights = Relu({axis}_near)"
_PLAIN = "grid = Identity(probabilities)"
_LEAST = 1 / (1 + math.exp(LIMIT))

#: By the name in ``eval.paste``.
PASTING_WAYS = {
    "aligned": PastingWay(_own, _PLAIN, _LINEAR, "GreaterOrEqual(drawn_all, half)"),
    "torchvision": PastingWay(_whole, _PLAIN, _LINEAR, "Greater(drawn_all, half)"),
    # Logits and LIMIT, so that what is beyond the box, -LIMIT, is 0; the border is at LIMIT.
    "smooth": PastingWay(
        _own,
        f"""surely_not = Constant<value = float {{{_LEAST:.9g}}}>()
        surely = Constant<value = float {{{1 - _LEAST:.9g}}}>()
        limit = Constant<value = float {{{LIMIT:.9g}}}>()
        unsure = Clip(probabilities, surely_not, surely)
        opposite = Sub(unit, unsure)
        odds = Div(unsure, opposite)
        logits = Log(odds)
        grid = Add(logits, limit)""",
        # The cubic B-spline: ((2 - d)^3 - 4 (1 - d)^3) / 6, of what is positive.
        """{axis}_one = Sub(unit, {axis}_distance)
        {axis}_two = Add({axis}_one, unit)
        {axis}_inner = Relu({axis}_one)
        {axis}_outer = Relu({axis}_two)
        {axis}_power = Constant<value = float {{3.0}}>()
        {axis}_four = Constant<value = float {{4.0}}>()
        {axis}_six = Constant<value = float {{6.0}}>()
        {axis}_outer_cubed = Pow({axis}_outer, {axis}_power)
        {axis}_inner_cubed = Pow({axis}_inner, {axis}_power)
        {axis}_less = Mul({axis}_inner_cubed, {axis}_four)
        {axis}_sum = Sub({axis}_outer_cubed, {axis}_less)
        {axis}_weights = Div({axis}_sum, {axis}_six)""",
        "GreaterOrEqual(drawn_all, limit)",
    ),
}
