"""The ways of ``inference.paste`` to draw a mask, in ONNX's notation.

Each is a sum over cells with weights that fall with the distance along each axis, above a threshold.  They
differ in the box that the M x M cells cover, in what is blended, and in the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from maskrcnn.inference.smooth_paste import LIMIT

#: Side of the squares in which masks are drawn, pixels.
_TILE = 64


@dataclass(frozen=True)
class PastingWay:
    """
    boxes: of M: ``own`` [K, 4] to ``over`` [K, 4], what the cells cover.
    grid: ``probabilities`` [K, M, M] to ``grid``, what is blended; 0 beyond the cells.
    kernel: ``{axis}_distance`` in cells to ``{axis}_weights``.
    inside: of ``drawn_all`` [T, S, S], which pixels are of the masks.
    reach: cells beyond the outermost ones in which something may be drawn, or more.
    """

    boxes: Callable[[int], str]
    grid: str
    kernel: str
    inside: str
    reach: int = 1


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
        reach=2,
    ),
}


def pasted(side: int, way: PastingWay) -> str:
    """Rows times ``grid`` times columns, in each of the T tiles of the masks that the boxes reach.

    A blend of cells is linear along each axis: the weight of a cell at a pixel falls with their distance in
    cells.  Beyond the outermost cells' centres, too, as if there were a ring of zeros.
    """
    cells = ", ".join(f"{i}.0" for i in range(side))

    def reached(axis: str, index: int) -> str:
        """``tiles`` along an axis, [R]; ``low`` and ``extent`` of boxes [K, 1]; ``in`` bool [K, R]."""
        return f"""
        {axis}_length = Slice(given, {("zero", "one")[index]}, {("one", "two")[index]})
        {axis}_over = Add({axis}_length, further)
        {axis}_tiles = Div({axis}_over, tile)
        {axis}_number = Squeeze({axis}_tiles, zero)
        {axis}_range = Range(begin, {axis}_number, step)
        {axis}_starts = Mul({axis}_range, tile)
        {axis}_start = Cast<to = 1>({axis}_starts)
        {axis}_low = Slice(over, {("one", "zero")[index]}, {("two", "one")[index]}, one)
        {axis}_high = Slice(over, {("three", "two")[index]}, {("four", "three")[index]}, one)
        {axis}_extent = Sub({axis}_high, {axis}_low)
        {axis}_cell = Div({axis}_extent, number)
        {axis}_ring = Mul({axis}_cell, reach)
        {axis}_least = Sub({axis}_low, {axis}_ring)
        {axis}_most = Add({axis}_high, {axis}_ring)
        {axis}_end = Add({axis}_start, edge)
        {axis}_begun = Less({axis}_start, {axis}_most)
        {axis}_open = Greater({axis}_end, {axis}_least)
        {axis}_in = And({axis}_begun, {axis}_open)"""

    def weights(axis: str, index: int) -> str:
        """[T, S, M] of rows, [T, M, S] of columns."""
        pixels, maps = (("two", "one"), ("one", "two"))[index]
        return f"""
        {axis}_tile = Slice(reached, {("one", "two")[index]}, {("two", "three")[index]}, zero)
        {axis}_first = Mul({axis}_tile, tile)
        {axis}_turned = Transpose<perm = [1, 0]>({axis}_first)
        {axis}_pixels = Add({axis}_turned, within)
        {axis}_pixel = Cast<to = 1>({axis}_pixels)
        {axis}_centre = Add({axis}_pixel, half)
        {axis}_own_low = Gather({axis}_low, instance)
        {axis}_own_extent = Gather({axis}_extent, instance)
        {axis}_from = Sub({axis}_centre, {axis}_own_low)
        {axis}_share = Div({axis}_from, {axis}_own_extent)
        {axis}_cells = Mul({axis}_share, number)
        {axis}_at = Sub({axis}_cells, half)
        {axis}_wide = Unsqueeze({axis}_at, {pixels})
        {axis}_columns = Unsqueeze(cells, {maps})
        {axis}_apart = Sub({axis}_wide, {axis}_columns)
        {axis}_distance = Abs({axis}_apart)
        {way.kernel.format(axis=axis)}"""

    return f"""        cells = Constant<value = float[1, {side}] {{{cells}}}>()
        within = Constant<value = int64[1, {_TILE}] {{{", ".join(map(str, range(_TILE)))}}}>()
        tile = Constant<value = int64[1] {{{_TILE}}}>()
        further = Constant<value = int64[1] {{{_TILE - 1}}}>()
        edge = Constant<value = float {{{_TILE}.0}}>()
        number = Constant<value = float {{{side}.0}}>()
        half = Constant<value = float {{0.5}}>()
        unit = Constant<value = float {{1.0}}>()
        begin = Constant<value = int64 {{0}}>()
        step = Constant<value = int64 {{1}}>()
        reach = Constant<value = float {{{way.reach}.0}}>()
        {way.boxes(side)}
        {way.grid}
        {reached("y", 0)}
        {reached("x", 1)}
        y_both = Unsqueeze(y_in, two)
        x_both = Unsqueeze(x_in, one)
        both = And(y_both, x_both)
        reached = NonZero(both)
        of_tiles = Slice(reached, zero, one, zero)
        instance = Squeeze(of_tiles, zero)
        {weights("y", 0)}
        {weights("x", 1)}
        drawn_from = Gather(grid, instance)
        drawn_rows = MatMul(y_weights, drawn_from)
        drawn_all = MatMul(drawn_rows, x_weights)
        drawn = {way.inside}
        like = Mul(within, begin)
        k_turned = Transpose<perm = [1, 0]>(of_tiles)
        x_tile_turned = Transpose<perm = [1, 0]>(x_tile)
        k_rows = Add(like, k_turned)
        x_rows = Add(like, x_tile_turned)
        k_place = Unsqueeze(k_rows, two)
        y_place = Unsqueeze(y_pixels, two)
        x_place = Unsqueeze(x_rows, two)
        places_of_rows = Concat<axis = 2>(k_place, y_place, x_place)
        found_shape = Shape<end = 1>(own)
        y_padded = Mul(y_tiles, tile)
        x_padded = Mul(x_tiles, tile)
        room_in_tiles = Concat<axis = 0>(found_shape, y_padded, x_tiles, tile)
        empty = ConstantOfShape<value = bool[1] {{0}}>(room_in_tiles)
        filled = ScatterND(empty, places_of_rows, drawn)
        room = Concat<axis = 0>(found_shape, y_padded, x_padded)
        padded = Reshape<allowzero = 1>(filled, room)
        corner = Constant<value = int64[2] {{0, 0}}>()
        axes = Constant<value = int64[2] {{1, 2}}>()
        masks = Slice(padded, corner, given, axes)"""
