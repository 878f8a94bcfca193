"""Fake (meta) versions and autograd formulas of the compiled operators.

The backward of each operator is an operator of its own, so that torch.compile and torch.export see through
both directions.  A backward operator gets the sizes and layouts of the levels, not the maps: they need not
be kept alive (only the coordinate gradient of PrRoI pooling needs them).

An operator takes (features, rois, levels, scales, height, width, *options, channels_last), its backward
(grad, [argmax,] rois, levels, scales, sizes, layouts, *options, deterministic), with the same options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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


def _squares(*inputs: Any) -> Tensor:
    *_, boxes, _, size, _ = inputs
    found: Tensor = boxes.new_empty((boxes.shape[0], size, size))
    return found
