"""Fake (meta) versions and autograd formulas of the compiled operators.

The backward of each operator is an operator of its own, so that torch.compile and torch.export see through
both directions.  A backward operator gets the sizes and layouts of the levels, not the maps: they need not
be kept alive (only the coordinate gradient of PrRoI pooling needs them).

An operator takes (features, rois, levels, scales, height, width, *options, channels_last), its backward
(grad, [argmax,] rois, levels, scales, sizes, layouts, *options, deterministic), with the same options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn.layers.geometry import PRECISE
from maskrcnn.layers.reference import is_channels_last

_registered = False


def register() -> None:
    """Register everything, once a process; the compiled library must have been loaded."""
    global _registered
    if _registered:
        return
    _registered = True
    library, ops = torch.library, torch.ops.maskrcnn
    library.register_fake("maskrcnn::roi_average", _output)
    library.register_fake("maskrcnn::roi_average_backward", _maps)
    library.register_fake("maskrcnn::roi_precise_rois_backward", _like_rois)
    library.register_autograd("maskrcnn::roi_average", _average_backward, setup_context=_average_setup)
    for name, backward in (("roi_sample", ops.roi_sample_backward), ("roi_pool", ops.roi_pool_backward)):
        library.register_fake(f"maskrcnn::{name}", _output_and_argmax)
        library.register_fake(
            f"maskrcnn::{name}_backward", lambda grad, argmax, *inputs: _maps(grad, *inputs)
        )
        formula = _backward_from_argmax(backward.default)
        library.register_autograd(f"maskrcnn::{name}", formula, setup_context=_argmax_setup)
    library.register_fake("maskrcnn::nms", _kept)
    library.register_fake("maskrcnn::match", _matched)
    library.register_fake("maskrcnn::rle_areas", lambda text, sizes, totals: torch.empty_like(sizes))
    library.register_fake("maskrcnn::rasterise", _squares)


def _new(
    like: Tensor, shape: Sequence[int | torch.SymInt], dtype: torch.dtype, channels_last: bool
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


def _output(
    features: list[Tensor], rois: Tensor, levels: Any, scales: Any, height: int, width: int, *options: Any
) -> Tensor:
    first = features[0]
    return _new(first, (rois.shape[0], first.shape[1], height, width), first.dtype, options[-1])


def _output_and_argmax(*inputs: Any) -> tuple[Tensor, Tensor]:
    output = _output(*inputs)
    return output, _new(output, output.shape, torch.int32, inputs[-1])


def _maps(
    grad: Tensor, rois: Any, levels: Any, scales: Any, sizes: list[int], layouts: list[int], *options: Any
) -> list[Tensor]:
    images, channels = sizes[0], sizes[1]
    return [
        _new(grad, (images, channels, sizes[2 + 2 * i], sizes[3 + 2 * i]), grad.dtype, bool(flag))
        for i, flag in enumerate(layouts)
    ]


def _like_rois(grad: Any, features: Any, rois: Tensor, levels: Any, scales: Any) -> Tensor:
    return torch.empty(rois.shape, dtype=rois.dtype, device=rois.device)


def _kept(
    boxes: Tensor, scores: Tensor, real: Any, groups: Any, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    rows = scores.shape[0]
    return scores.new_empty((rows, count), dtype=torch.int64), scores.new_empty(rows, dtype=torch.int64)


def _matched(truth: Tensor, truth_real: Any, boxes: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    shape = (truth.shape[0], boxes.shape[-2])
    return truth.new_empty(shape, dtype=torch.int64), truth.new_empty(shape, dtype=torch.int8)


def _squares(*inputs: Any) -> Tensor:
    *_, boxes, _, size, _ = inputs
    found: Tensor = boxes.new_empty((boxes.shape[0], size, size))
    return found


def _remember(ctx: Any, inputs: tuple[Any, ...]) -> None:
    """Keep what a backward needs: of the maps their sizes and, for each, its layout."""
    features, _, _, scales, _, _, *options, _ = inputs
    sizes = [features[0].shape[0], features[0].shape[1]]
    for level in features:
        sizes += [level.shape[2], level.shape[3]]
    layouts = [int(is_channels_last(level)) for level in features]
    ctx.rest, ctx.inputs, ctx.levels = (scales, sizes, layouts, *options), len(inputs), len(features)


def _deterministic() -> bool:
    """Whether CUDA backwards must do without atomics; those of the CPU always do."""
    return torch.are_deterministic_algorithms_enabled()


def _average_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _remember(ctx, inputs)
    features, rois, levels, _, _, _, geometry, _, _ = inputs
    needs_maps = geometry == PRECISE and rois.requires_grad
    ctx.save_for_backward(rois, levels, *(features if needs_maps else ()))


def _average_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rois, levels, *features = ctx.saved_tensors
    ops = torch.ops.maskrcnn
    maps, boxes = [None] * ctx.levels, None
    if any(ctx.needs_input_grad[0]):
        maps = ops.roi_average_backward.default(grad, rois, levels, *ctx.rest, _deterministic())
    if features and ctx.needs_input_grad[1]:
        boxes = ops.roi_precise_rois_backward.default(grad, features, rois, levels, ctx.rest[0])
    return maps, boxes, *[None] * (ctx.inputs - 2)


def _argmax_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _remember(ctx, inputs)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], inputs[1], inputs[2])


def _backward_from_argmax(operator: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
        maps = operator(grad, *ctx.saved_tensors, *ctx.rest, _deterministic())
        return maps, *[None] * (ctx.inputs - 1)

    return backward
