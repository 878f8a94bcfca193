"""Export of the operators to ONNX's standard ones.

    torch.onnx.export(model, inputs, dynamo=True, custom_translation_table=translation_table())

``RoiAlign`` for averaged RoIAlign on a grid, aligned or not, of one level or several; float16 to float64
features as the runtime allows (the standard operator takes RoIs in the features' type).  ``MaxRoiPool`` for
RoIPool with the original's rounding, to whose bits it is equal.  Other RoI operators have no standard
counterpart and raise when they are exported.  ``NonMaxSuppression`` for NMS without groups,
``TopK`` for sorting, which ONNX keeps stable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch

from maskrcnn.layers import ops
from maskrcnn.layers.geometry import ALIGNED, PLAIN


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` of ``torch.onnx.export``.

    Raises:
        RuntimeError: the compiled operators, whose schemas are exported, are not loaded.
    """
    if not ops.compiled_devices():
        raise RuntimeError("ONNX export needs the compiled RoI operators (see `maskrcnn doctor`).")
    op: Any = import_module("onnxscript").opset18

    def on_levels(
        pool: Callable[[Any, Any, float], Any],
        features: Sequence[Any],
        rois: Any,
        levels: Any,
        scales: Sequence[float],
        size: tuple[int, int],
    ) -> Any:
        """``pool(feature, rois, scale)`` on each level for its own RoIs, scattered back to their rows."""
        if levels is None:
            return pool(features[0], rois, scales[0])
        count = op.Shape(rois, start=0, end=1)
        channels = op.Shape(features[0], start=1, end=2)
        shape = op.Concat(count, channels, op.Constant(value_ints=[*size]), axis=0)
        result = op.CastLike(op.ConstantOfShape(shape), features[0])
        for index, feature in enumerate(features):
            mine = op.Equal(levels, op.Constant(value_int=index))
            where = op.Transpose(op.NonZero(mine), perm=[1, 0])  # [K_l, 1]
            rows = op.GatherND(rois, where)
            result = op.ScatterND(result, where, pool(feature, rows, scales[index]))
        return result

    def roi_average(
        features: Sequence[Any],
        rois: Any,
        levels: Any,
        scales: Sequence[float],
        height: int,
        width: int,
        geometry: int,
        sampling_ratio: int,
        channels_last: bool,
    ) -> Any:
        if geometry not in (PLAIN, ALIGNED):
            raise RuntimeError("ONNX has no operator for this RoI pooling.")
        mode = "half_pixel" if geometry == ALIGNED else "output_half_pixel"

        def pool(feature: Any, rows: Any, scale: float) -> Any:
            zero, one, five = (op.Constant(value_ints=[i]) for i in (0, 1, 5))
            batch = op.Squeeze(op.Slice(rows, zero, one, one), one)
            boxes = op.Slice(rows, one, five, one)
            return op.RoiAlign(
                feature,
                op.CastLike(boxes, feature),
                op.Cast(batch, to=7),  # int64
                coordinate_transformation_mode=mode,
                mode="avg",
                output_height=height,
                output_width=width,
                sampling_ratio=sampling_ratio,
                spatial_scale=scale,
            )

        return on_levels(pool, features, rois, levels, scales, (height, width))

    def roi_pool(
        features: Sequence[Any],
        rois: Any,
        levels: Any,
        scales: Sequence[float],
        height: int,
        width: int,
        rounding: int,
        bins: int,
        channels_last: bool,
    ) -> tuple[Any, Any]:
        if (ops.ROUNDINGS[rounding], ops.BINS[bins]) != ("round", "overlap"):
            raise RuntimeError("ONNX has RoIPool with the original's rounding and bins alone.")

        def pool(feature: Any, rows: Any, scale: float) -> Any:
            rows = op.CastLike(rows, feature)
            return op.MaxRoiPool(feature, rows, pooled_shape=[height, width], spatial_scale=scale)

        result = on_levels(pool, features, rois, levels, scales, (height, width))
        return result, op.Cast(result, to=7)  # in place of where the maxima lie, which a prediction ignores

    def sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
        length = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
        return op.TopK(values, length, axis=dim, largest=int(descending), sorted=1)

    def nms(
        boxes: Any, scores: Any, real: Any, groups: Any, iou_threshold: float, count: Any
    ) -> tuple[Any, Any]:
        if groups is not None:
            raise RuntimeError("ONNX has no NMS of groups; the static form of a model needs none.")
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        first, second, third = (op.Constant(value_ints=[i]) for i in (0, 1, 2))
        fixed = isinstance(count, int)
        most = op.Constant(value_ints=[count]) if fixed else op.Reshape(count, op.Constant(value_ints=[1]))
        low = op.Constant(value_floats=[-3e38])  # scores may be negative; those of no box are not greater
        scored = op.Where(real, op.Cast(scores, to=1), low)
        kept = op.NonMaxSuppression(
            op.Cast(boxes, to=1),
            op.Unsqueeze(scored, second),
            most,
            op.Constant(value_floats=[iou_threshold]),
            low,
        )  # [n, 3]: row, 0, box; row after row, by falling score in each
        row = op.Squeeze(op.Slice(kept, first, second, second), second)
        box = op.Squeeze(op.Slice(kept, third, op.Constant(value_ints=[3]), second), second)
        rows = op.Shape(scores, start=0, end=1)
        every = op.Unsqueeze(op.Range(zero, op.Squeeze(rows), one), second)
        mine = op.Cast(op.Equal(every, op.Unsqueeze(row, first)), to=7)  # int64 [rows, n]
        number = op.ReduceSum(mine, second, keepdims=0)
        begin = op.CumSum(number, zero, exclusive=1)
        place = op.Sub(op.Range(zero, op.Squeeze(op.Shape(row)), one), op.Gather(begin, row))
        where = op.Concat(op.Unsqueeze(row, second), op.Unsqueeze(place, second), axis=1)
        empty = op.Expand(zero, op.Concat(rows, most, axis=0))
        return op.ScatterND(empty, where, box), number

    return {
        torch.ops.maskrcnn.roi_average.default: roi_average,
        torch.ops.maskrcnn.roi_pool.default: roi_pool,
        torch.ops.maskrcnn.nms.default: nms,
        torch.ops.aten.sort.stable: sort,
    }
