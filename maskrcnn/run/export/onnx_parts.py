"""What stands before and behind the network in an ONNX file, in ONNX's own notation.

Before: resizing as ``data.eval_transforms`` has it (``onnx_resizing``), normalising, padding.  Behind: boxes
and keypoints in the image's frame, and its masks, pasted as ``inference.paste`` has it (``onnx_pastes``).

Legend: N = images, H x W = their size, h x w = that of the network frame, K = detections of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from maskrcnn.modeling.preprocess import Preprocess
from maskrcnn.run.export.network import INPUTS, OUTPUTS, Told
from maskrcnn.run.export.onnx_pastes import PastingWay, pasted
from maskrcnn.run.export.onnx_resizing import resized

#: The standard operators' version.
OPSET = 18
HEAD = f'<ir_version: 9, opset_import: ["" : {OPSET}]>'


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
    values = resized(transforms, channels) if resize and transforms else _PLAIN
    d = preprocess.size_divisor
    return f"""{HEAD}
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
        {values}
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


def _type(dtype: torch.dtype) -> str:
    """Its name in the notation."""
    name = str(dtype).removeprefix("torch.")
    return {"float32": "float", "float64": "double"}.get(name, name)


def network_names(told: Mapping[str, Told]) -> list[str]:
    """The network's outputs, in order; what heads tell is called by its number."""
    return [*OUTPUTS, *(f"network_told_{i}" for i in range(len(told)))]


def told_names(told: Mapping[str, Told]) -> dict[str, str]:
    """Of outputs that :func:`behind` cannot name itself, what they are to be called: heads' own names."""
    return {f"told_{i}": name for i, name in enumerate(told) if name not in ("mask_probs", "keypoints")}


def behind(told: Mapping[str, Told], detections: int, *, paste: PastingWay | None) -> str:
    """The network's outputs and ``frames`` to what is found, those of an image together, by falling score.

    Outputs: ``boxes`` float [K, 4] xyxy in the image's frame, ``scores`` float [K], ``classes`` int64 [K],
    ``images`` int64 [K], which of the N; and ``masks`` bool [K, H, W] or, not pasted, ``mask_probabilities``
    float [K, M, M], each over the extent of ``mask_boxes`` [K, 4], which may lie beyond the image;
    ``keypoints`` float [K, J, 3] in the image's frame; and what further heads tell, see :func:`told_names`.

    Args:
        told: by the heads.
        detections: D.
        paste: how masks are pasted; None: they are not.
    """
    room = f"N, {detections}"
    given = f"float[{room}, 4] {OUTPUTS[0]}, float[{room}] {OUTPUTS[1]}, int64[{room}] {OUTPUTS[2]}"
    given += f", bool[{room}] {OUTPUTS[3]}, float[4] frames, uint8[N, H, W, C] image"
    results = "float[K, 4] boxes, float[K] scores, int64[K] classes, int64[K] images"
    drawn = ""
    for i, (name, (shape, dtype)) in enumerate(told.items()):
        kind, tail = _type(dtype), "".join(f", {n}" for n in shape)
        own = network_names(told)[len(OUTPUTS) + i]
        given += f", {kind}[{room}{tail}] {own}"
        if name == "keypoints":
            results += f", float[K{tail}] keypoints"
            drawn += f"""
        sheet = Slice(frames, zero, two)
        as_is = Constant<value = float[1] {{1.0}}>()
        factors = Concat<axis = 0>(sheet, as_is)
        points = GatherND({own}, where)
        keypoints = Mul(points, factors)"""
        elif name != "mask_probs":
            results += f", {kind}[K{tail}] told_{i}"
            drawn += f"\n        told_{i} = GatherND({own}, where)"
        elif paste is not None:
            results += ", bool[K, H, W] masks"
            drawn += f"\n        probabilities = GatherND({own}, where)\n{pasted(shape[0], paste)}"
        else:
            results += f", float[K{tail}] mask_probabilities, float[K, 4] mask_boxes"
            drawn += f"""
        mask_probabilities = GatherND({own}, where)
        mask_boxes = Identity(own)"""
    return f"""{HEAD}
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
