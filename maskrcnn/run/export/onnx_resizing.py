"""Resizing in an ONNX file as the evaluation's images are resized, in ONNX's own notation.

Legend: N = images, H x W = their size, h x w = that of the network frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.data.transforms.resizing import Resize, ResizeLongest, ResizeShortestEdge
from maskrcnn.errors import UserError


def resized(transforms: Sequence[object], channels: int) -> str:
    """``pixels`` float [N, C, h, w] of ``image`` uint8 [N, H, W, C], whole numbers as the evaluation's image
    has, and ``size`` int64 [2], h and w, of ``given``, H and W.

    Raises:
        UserError: the transforms are not one way to resize that ONNX has.
    """
    (only,) = transforms if len(transforms) == 1 else (None,)
    if not isinstance(only, (ResizeShortestEdge, ResizeLongest, Resize)):
        raise UserError(
            "data.eval_transforms are not one resize, so they have no place in an ONNX file; export with"
            " --without resize and hand it images in the network frame"
        )
    if only.resample == "area":
        raise UserError(
            "data.eval_transforms.0.resample: area is no way to resize that ONNX has; export with --without"
            " resize, or evaluate with linear or antialias and export that"
        )
    if isinstance(only, ResizeShortestEdge):
        if len(only.min_sizes) != 1:
            raise UserError(
                "data.eval_transforms.0.min_sizes has several lengths; name one, as an evaluation has"
            )
        half = 0.5 if only.rounding == "nearest" else 0.0
        scaled = f"""short = ReduceMin<keepdims = 1>(sides)
        long = ReduceMax<keepdims = 1>(sides)
        wanted = Constant<value = double[1] {{{only.min_sizes[0]:.1f}}}>()
        most = Constant<value = double[1] {{{only.max_size:.1f}}}>()
        tall = Mul(long, wanted)
        room = Mul(short, most)
        capped = Greater(tall, room)
        above = Where(capped, most, wanted)
        below = Where(capped, long, short)
        grown = Mul(sides, above)
        exact = Div(grown, below)"""
    elif isinstance(only, ResizeLongest):
        half = 0.5
        scaled = f"""long = ReduceMax<keepdims = 1>(sides)
        wanted = Constant<value = double[1] {{{only.size:.1f}}}>()
        grown = Mul(sides, wanted)
        exact = Div(grown, long)"""
    else:
        half = 0.5
        scaled = f"exact = Constant<value = double[2] {{{only.height:.1f}, {only.width:.1f}}}>()"
    drawn = _antialiased(channels) if only.resample == "antialias" else _as_opencv()
    return f"""sides = Cast<to = 11>(given)
        {scaled}
        half = Constant<value = double[1] {{{half + 1e-9:.10f}}}>()
        moved = Add(exact, half)
        floored = Floor(moved)
        cut = Cast<to = 7>(floored)
        size = Max(cut, one)
        planes = Transpose<perm = [0, 3, 1, 2]>(image)
        values = Cast<to = 1>(planes)
        {drawn}"""


def _antialiased(channels: int) -> str:
    """``pixels`` float [N, C, h, w] of ``values`` [N, C, H, W] in floating point, PIL's is fixed."""
    return f"""depth = Constant<value = int64[1] {{{channels}}}>()
        target = Concat<axis = 0>(count, depth, size)
        drawn = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel", antialias = 1,
            exclude_outside = 1>
            (values, , , target)
        round = Round(drawn)
        low = Constant<value = float {{0.0}}>()
        high = Constant<value = float {{255.0}}>()
        pixels = Clip(round, low, high)"""


def _as_opencv() -> str:
    """``pixels`` float [N, C, h, w] of ``values`` [N, C, H, W], those of OpenCV's INTER_LINEAR to the bit.

    Its weights are whole numbers of 1/2048; along rows their sum has 4 bits cut off, and each of the two
    products of a column 16.  All is done in float32, whose whole numbers are exact up to 2**24: products with
    the larger and the smaller 5 bits of a weight are, those with a whole weight are not.
    """
    return f"""place = Constant<value = int64 {{0}}>()
        next = Constant<value = int64 {{1}}>()
        nought = Constant<value = float {{0.0}}>()
        unit = Constant<value = float {{1.0}}>()
        ones = Constant<value = float {{2048.0}}>()
        few = Constant<value = float {{32.0}}>()
        fewer = Constant<value = float {{0.03125}}>()
        shorter = Constant<value = float {{0.0625}}>()
        scale = Constant<value = float {{0.00048828125}}>()
        quarter = Constant<value = float {{0.25}}>()
        both = Constant<value = float {{2.0}}>()
        {_taps("x", 1)}
        {_taps("y", 0)}
        x_inside = And(x_after, x_before)
        x_share = Where(x_inside, x_rest, nought)
        y_share = Identity(y_rest)
        {_weights("x")}
        {_weights("y")}
        left = Gather<axis = 3>(values, x_first)
        right = Gather<axis = 3>(values, x_second)
        left_part = Mul(left, x_one)
        right_part = Mul(right, x_other)
        row = Add(left_part, right_part)
        row_units = Mul(row, shorter)
        rows_cut = Floor(row_units)
        {_column("upper", "y_first", "y_one")}
        {_column("lower", "y_second", "y_other")}
        column = Add(upper, lower)
        raised = Add(column, both)
        quarters = Mul(raised, quarter)
        pixels = Floor(quarters)"""


def _taps(axis: str, at: int) -> str:
    """Of each place along a new side the two old ones that it lies between, and its distance to the first."""
    a = axis
    return f"""{a}_at = Constant<value = int64 {{{at}}}>()
        {a}_new = Gather(size, {a}_at)
        {a}_old = Gather(given, {a}_at)
        {a}_places = Range(place, {a}_new, next)
        {a}_twice = Add({a}_places, {a}_places)
        {a}_odd = Add({a}_twice, next)
        {a}_grown = Mul({a}_odd, {a}_old)
        {a}_less = Sub({a}_grown, {a}_new)
        {a}_double = Add({a}_new, {a}_new)
        {a}_above = Cast<to = 1>({a}_less)
        {a}_below = Cast<to = 1>({a}_double)
        {a}_exact = Div({a}_above, {a}_below)
        {a}_floor = Floor({a}_exact)
        {a}_rest = Sub({a}_exact, {a}_floor)
        {a}_index = Cast<to = 7>({a}_floor)
        {a}_last = Sub({a}_old, next)
        {a}_after = GreaterOrEqual({a}_index, place)
        {a}_before = Less({a}_index, {a}_last)
        {a}_following = Add({a}_index, next)
        {a}_first = Clip({a}_index, place, {a}_last)
        {a}_second = Clip({a}_following, place, {a}_last)"""


def _weights(axis: str) -> str:
    """Of both places, in 1/2048."""
    a = axis
    return f"""{a}_left_share = Sub(unit, {a}_share)
        {a}_share_units = Mul({a}_share, ones)
        {a}_left_units = Mul({a}_left_share, ones)
        {a}_other = Round({a}_share_units)
        {a}_one = Round({a}_left_units)"""


def _column(name: str, places: str, weights: str) -> str:
    """``name``: the rows at ``places`` times their weights, over 2**16 and cut off."""
    n = name
    return f"""{n}_rows = Gather<axis = 2>(rows_cut, {places})
        {n}_weights = Unsqueeze({weights}, one)
        {n}_parts = Mul({n}_weights, fewer)
        {n}_large = Floor({n}_parts)
        {n}_large_units = Mul({n}_large, few)
        {n}_small = Sub({n}_weights, {n}_large_units)
        {n}_first = Mul({n}_rows, {n}_small)
        {n}_first_units = Mul({n}_first, fewer)
        {n}_first_cut = Floor({n}_first_units)
        {n}_second = Mul({n}_rows, {n}_large)
        {n}_sum = Add({n}_second, {n}_first_cut)
        {n}_units = Mul({n}_sum, scale)
        {n} = Floor({n}_units)"""
