"""Decoding of heat maps in ONNX: ``Scan`` goes from detection to detection, on the pixels of each one's box.

So it is what ``modeling.roi.keypoint_decode`` computes, whatever the sizes: places differ only where two
pixels are equal but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from maskrcnn.modeling.roi import keypoint_decode
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.onnx_parts import HEAD


def translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For the ``custom_translation_table`` of ``torch.onnx.export``."""
    op: Any = needed("onnxscript").opset18

    def decode(logits: Any, boxes: Any, probability: bool) -> Any:
        joints, side = logits.shape[1], logits.shape[2]
        body = needed("onnx.parser").parse_model(_of_one(joints, side, probability)).graph
        graph = needed("onnx_ir").serde.deserialize_graph(body)
        return op.Scan(boxes, logits, body=graph, num_scan_inputs=2)

    return {torch.ops.maskrcnn.decode_keypoints.default: decode}


def _of_one(joints: int, side: int, probability: bool) -> str:
    """``box`` [4] xyxy and its ``maps`` [J, M, M] to ``point`` [J, 3].

    Edges are repeated, as weights past them go to the last cells.
    """
    cells = ", ".join(f"{i}.0" for i in range(-2, side + 2))
    a = keypoint_decode.CUBIC

    def weights(axis: str, index: int) -> str:
        """Of the cells at each pixel: :func:`keypoint_decode.bicubic`, by the distance in cells."""
        return f"""
        {axis}_at = Constant<value = int64 {{{index}}}>()
        {axis}_whole = Gather(whole, {axis}_at)
        {axis}_number = Cast<to = 7>({axis}_whole)
        {axis}_range = Range(begin, {axis}_number, step)
        {axis}_pixel = Cast<to = 1>({axis}_range)
        {axis}_centre = Add({axis}_pixel, half)
        {axis}_cells = Div(side, {axis}_whole)
        {axis}_place = Mul({axis}_centre, {axis}_cells)
        {axis}_moved = Sub({axis}_place, half)
        {axis}_wide = Unsqueeze({axis}_moved, last)
        {axis}_apart = Sub({axis}_wide, cells)
        {axis}_beyond = Abs({axis}_apart)
        {axis}_d = Min({axis}_beyond, reach)
        {axis}_near_1 = Mul({axis}_d, near_a)
        {axis}_near_2 = Sub({axis}_near_1, near_b)
        {axis}_near_3 = Mul({axis}_near_2, {axis}_d)
        {axis}_near_4 = Mul({axis}_near_3, {axis}_d)
        {axis}_near = Add({axis}_near_4, unit)
        {axis}_far_1 = Mul({axis}_d, far_a)
        {axis}_far_2 = Sub({axis}_far_1, far_b)
        {axis}_far_3 = Mul({axis}_far_2, {axis}_d)
        {axis}_far_4 = Add({axis}_far_3, far_c)
        {axis}_far_5 = Mul({axis}_far_4, {axis}_d)
        {axis}_far = Sub({axis}_far_5, far_d)
        {axis}_by = Less({axis}_d, unit)
        {axis}_weights = Where({axis}_by, {axis}_near, {axis}_far)"""

    numbers: dict[str, float] = {
        "half": 0.5,
        "unit": 1.0,
        "reach": 2.0,
        "side": side,
        "near_a": a + 2,
        "near_b": a + 3,
    }
    numbers |= {"far_a": a, "far_b": 5 * a, "far_c": 8 * a, "far_d": 4 * a}
    made = "\n        ".join(f"{k} = Constant<value = float {{{v:.9g}}}>()" for k, v in numbers.items())
    told = "score = Identity(height)"
    if probability:  # its exponential over the sum of those of the cells
        told = """flat_cells = Flatten<axis = 1>(maps)
        most = ReduceMax<keepdims = 1>(flat_cells, ones)
        below = Sub(flat_cells, most)
        powers = Exp(below)
        total = ReduceSum<keepdims = 1>(powers, ones)
        log_total = Log(total)
        whole_sum = Add(log_total, most)
        over = Sub(height, whole_sum)
        score = Exp(over)"""
    return f"""{HEAD}
    keypoints_of_one (float[4] box, float[{joints}, {side}, {side}] maps) => (float[{joints}, 3] point)
    {{
        {made}
        cells = Constant<value = float[{side + 4}] {{{cells}}}>()
        begin = Constant<value = int64 {{0}}>()
        step = Constant<value = int64 {{1}}>()
        zeros = Constant<value = int64[1] {{0}}>()
        ones = Constant<value = int64[1] {{1}}>()
        twos = Constant<value = int64[1] {{2}}>()
        fours = Constant<value = int64[1] {{4}}>()
        last = Constant<value = int64[1] {{-1}}>()
        ring = Constant<value = int64[6] {{0, 2, 2, 0, 2, 2}}>()
        lines = Constant<value = int64[2] {{0, -1}}>()
        low = Slice(box, zeros, twos)
        high = Slice(box, twos, fours)
        extent = Sub(high, low)
        sides = Max(extent, unit)
        whole = Ceil(sides)
        {weights("x", 0)}
        {weights("y", 1)}
        padded = Pad<mode = "edge">(maps, ring)
        x_turned = Transpose<perm = [1, 0]>(x_weights)
        drawn_rows = MatMul(y_weights, padded)
        drawn = MatMul(drawn_rows, x_turned)
        flat = Reshape(drawn, lines)
        height = ReduceMax<keepdims = 1>(flat, ones)
        highest = ArgMax<axis = 1, keepdims = 1>(flat)
        row = Div(highest, x_number)
        column = Mod(highest, x_number)
        pixel = Concat<axis = 1>(column, row)
        pixels = Cast<to = 1>(pixel)
        centres = Add(pixels, half)
        size = Div(sides, whole)
        moved = Mul(centres, size)
        place = Add(moved, low)
        {told}
        point = Concat<axis = 1>(place, score)
    }}"""
