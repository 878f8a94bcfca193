"""What stands before and behind the network in an ONNX file, in ONNX's own notation.

Before: resizing as ``data.eval_transforms`` has it, normalising, padding.  Behind: boxes in the image's frame
and, by bilinear interpolation at the pixels' centres as ``inference.paste`` ("aligned") has it, its masks.

Legend: N = images, H x W = their size, h x w = that of the network frame, K = detections of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.data.transforms.resizing import Resize, ResizeLongest, ResizeShortestEdge
from maskrcnn.errors import UserError
from maskrcnn.modeling.preprocess import Preprocess
from maskrcnn.run.export.network import INPUTS, OUTPUTS

#: The standard operators' version.
OPSET = 18
_HEAD = f'<ir_version: 9, opset_import: ["" : {OPSET}]>'


#: Side of the squares in which masks are drawn, pixels.
_TILE = 64


def before(transforms: Sequence[object], preprocess: Preprocess, *, resize: bool) -> str:
    """``image`` uint8 [N, H, W, C] to the network's inputs, and ``frames`` float [4]: W, H, W, H over those
    of the network frame.

    Args:
        transforms: of the evaluation.
        resize: False: images come in the network frame.

    Raises:
        UserError: a transform that ONNX has no operator for.
    """
    channels = preprocess.mean.shape[0]
    mean, std = (
        ", ".join(f"{v:.9g}" for v in x.flatten().tolist()) for x in (preprocess.mean, preprocess.std)
    )
    resized = _resized(transforms, channels) if resize and transforms else _PLAIN
    d = preprocess.size_divisor
    return f"""{_HEAD}
    before (uint8[N, H, W, {channels}] image)
    => (float[N, {channels}, h, w] {INPUTS[0]}, float[N, 2] {INPUTS[1]}, float[4] frames)
    <float[1, {channels}, 1, 1] mean = {{{mean}}}, float[1, {channels}, 1, 1] std = {{{std}}},
     int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
     int64[2] zeros = {{0, 0}}, int64[4] none = {{0, 0, 0, 0}},
     int64[2] divisor = {{{d}, {d}}}, int64[2] further = {{{d - 1}, {d - 1}}},
     int64[4] order = {{1, 0, 1, 0}}>
    {{
        shape = Shape(image)
        count = Slice(shape, zero, one)
        given = Slice(shape, one, three)
        {resized}
        centred = Sub(pixels, mean)
        normal = Div(centred, std)
        over = Add(size, further)
        steps = Div(over, divisor)
        padded = Mul(steps, divisor)
        rest = Sub(padded, size)
        pads = Concat<axis = 0>(none, zeros, rest)
        {INPUTS[0]} = Pad(normal, pads)
        extent = Cast<to = 1>(size)
        rows = Concat<axis = 0>(count, two)
        {INPUTS[1]} = Expand(extent, rows)
        whole = Cast<to = 1>(given)
        factors = Div(whole, extent)
        frames = Gather(factors, order)
    }}"""


_PLAIN = """size = Identity(given)
        planes = Transpose<perm = [0, 3, 1, 2]>(image)
        pixels = Cast<to = 1>(planes)"""


def _resized(transforms: Sequence[object], channels: int) -> str:
    """``pixels`` float [N, C, h, w], rounded as an image is, and ``size``."""
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
    smooth = int(only.resample == "antialias")
    return f"""sides = Cast<to = 11>(given)
        {scaled}
        half = Constant<value = double[1] {{{half + 1e-9:.10f}}}>()
        moved = Add(exact, half)
        floored = Floor(moved)
        cut = Cast<to = 7>(floored)
        size = Max(cut, one)
        planes = Transpose<perm = [0, 3, 1, 2]>(image)
        values = Cast<to = 1>(planes)
        depth = Constant<value = int64[1] {{{channels}}}>()
        target = Concat<axis = 0>(count, depth, size)
        drawn = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel", antialias = {smooth}>
            (values, , , target)
        round = Round(drawn)
        low = Constant<value = float {{0.0}}>()
        high = Constant<value = float {{255.0}}>()
        pixels = Clip(round, low, high)"""


def behind(masks: bool, side: int, detections: int, *, paste: bool) -> str:
    """The network's outputs and ``frames`` to what is found, those of an image together, by falling score.

    Outputs: ``boxes`` float [K, 4] xyxy in the image's frame, ``scores`` float [K], ``classes`` int64 [K],
    ``images`` int64 [K], which of the N; and ``masks`` bool [K, H, W] or, not pasted, ``mask_probabilities``
    float [K, M, M], each over the extent of ``mask_boxes`` [K, 4], which may lie beyond the image.

    Args:
        masks: whether there are any.
        side: M.
        detections: D.
    """
    room = f"N, {detections}"
    given = f"float[{room}, 4] {OUTPUTS[0]}, float[{room}] {OUTPUTS[1]}, int64[{room}] {OUTPUTS[2]}"
    given += f", bool[{room}] {OUTPUTS[3]}, float[4] frames, uint8[N, H, W, C] image"
    results = "float[K, 4] boxes, float[K] scores, int64[K] classes, int64[K] images"
    drawn = ""
    if masks:
        given += f", float[N, {detections}, {side}, {side}] {OUTPUTS[4]}"
        drawn = f"probabilities = GatherND({OUTPUTS[4]}, where)\n"
        if paste:
            results, drawn = results + ", bool[K, H, W] masks", drawn + _pasted(side)
        else:
            results += f", float[K, {side}, {side}] mask_probabilities, float[K, 4] mask_boxes"
            drawn += (
                "        mask_probabilities = Identity(probabilities)\n        mask_boxes = Identity(own)"
            )
    return f"""{_HEAD}
    behind ({given}) => ({results})
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
     int64[1] four = {{4}}, int64[4] order = {{1, 0, 1, 0}}, float nought = {{0.0}}>
    {{
        shape = Shape(image)
        given = Slice(shape, one, three)
        whole = Cast<to = 1>(given)
        limits = Gather(whole, order)
        moved = Mul({OUTPUTS[0]}, frames)
        floor = Max(moved, nought)
        clipped = Min(floor, limits)
        near = Slice(clipped, zero, two, two)
        far = Slice(clipped, two, four, two)
        sides = Sub(far, near)
        least = ReduceMin<keepdims = 0>(sides, two)
        wide = Greater(least, nought)
        found = And(wide, {OUTPUTS[3]})
        places = NonZero(found)
        where = Transpose<perm = [1, 0]>(places)
        first = Slice(places, zero, one, zero)
        images = Squeeze(first, zero)
        boxes = GatherND(clipped, where)
        own = GatherND(moved, where)
        scores = GatherND({OUTPUTS[1]}, where)
        classes = GatherND({OUTPUTS[2]}, where)
        {drawn}
    }}"""


def _pasted(side: int) -> str:
    """Rows times probabilities times columns, in each of the T tiles of the masks that the boxes reach.

    Interpolation is linear along each axis: the weight of a cell at a pixel is 1 less their distance in
    cells; beyond the outermost cells' centres it falls to 0, as if there were a ring of zeros.
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
        {axis}_low = Slice(own, {("one", "zero")[index]}, {("two", "one")[index]}, one)
        {axis}_high = Slice(own, {("three", "two")[index]}, {("four", "three")[index]}, one)
        {axis}_extent = Sub({axis}_high, {axis}_low)
        {axis}_ring = Div({axis}_extent, number)
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
        {axis}_near = Sub(unit, {axis}_distance)
        {axis}_weights = Relu({axis}_near)"""

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
        drawn_from = Gather(probabilities, instance)
        drawn_rows = MatMul(y_weights, drawn_from)
        drawn_all = MatMul(drawn_rows, x_weights)
        drawn = GreaterOrEqual(drawn_all, half)
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
