"""Fake (meta) versions and autograd formulas of the compiled operators.

The backward of each operator is an operator of its own, so that torch.compile and torch.export see through
both directions.  A backward operator gets the sizes and layouts of the levels, not the maps: they need not
be kept alive (only the coordinate gradient of PrRoI pooling needs them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn.layers.geometry import PRECISE

_registered = False


def register() -> None:
    """Register everything, once a process; the compiled library must have been loaded."""
    global _registered
    if _registered:
        return
    _registered = True
    library = torch.library
    library.register_fake("maskrcnn::roi_average", _average_fake)
    library.register_fake("maskrcnn::roi_sample", _sample_fake)
    library.register_fake("maskrcnn::roi_pool", _pool_fake)
    library.register_fake("maskrcnn::roi_average_backward", _average_backward_fake)
    library.register_fake("maskrcnn::roi_sample_backward", _sample_backward_fake)
    library.register_fake("maskrcnn::roi_pool_backward", _pool_backward_fake)
    library.register_fake("maskrcnn::roi_precise_rois_backward", _precise_rois_backward_fake)
    library.register_fake("maskrcnn::rle_areas", lambda text, sizes, totals: torch.empty_like(sizes))
    library.register_autograd("maskrcnn::roi_average", _average_backward, setup_context=_average_setup)
    library.register_autograd("maskrcnn::roi_sample", _sample_backward, setup_context=_sample_setup)
    library.register_autograd("maskrcnn::roi_pool", _pool_backward, setup_context=_pool_setup)


def _new(
    like: Tensor, shape: Sequence[int | torch.SymInt], dtype: torch.dtype, channels_last: bool
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


def _maps(grad: Tensor, sizes: Sequence[int], channels_last: Sequence[int]) -> list[Tensor]:
    images, channels = sizes[0], sizes[1]
    return [
        _new(grad, (images, channels, sizes[2 + 2 * i], sizes[3 + 2 * i]), grad.dtype, bool(flag))
        for i, flag in enumerate(channels_last)
    ]


def _average_fake(
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    height: int,
    width: int,
    geometry: int,
    sampling_ratio: int,
    channels_last: bool,
) -> Tensor:
    first = features[0]
    return _new(first, (rois.shape[0], first.shape[1], height, width), first.dtype, channels_last)


def _sample_fake(
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    height: int,
    width: int,
    geometry: int,
    sampling_ratio: int,
    maximum: bool,
    random: bool,
    seed: int,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    first = features[0]
    shape = (rois.shape[0], first.shape[1], height, width)
    return _new(first, shape, first.dtype, channels_last), _new(first, shape, torch.int32, channels_last)


def _pool_fake(
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    height: int,
    width: int,
    rounding: int,
    bins: int,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    first = features[0]
    shape = (rois.shape[0], first.shape[1], height, width)
    return _new(first, shape, first.dtype, channels_last), _new(first, shape, torch.int32, channels_last)


def _average_backward_fake(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    sizes: list[int],
    channels_last: list[int],
    geometry: int,
    sampling_ratio: int,
    deterministic: bool,
) -> list[Tensor]:
    return _maps(grad, sizes, channels_last)


def _sample_backward_fake(
    grad: Tensor,
    argmax: Tensor,
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    sizes: list[int],
    channels_last: list[int],
    geometry: int,
    sampling_ratio: int,
    maximum: bool,
    random: bool,
    seed: int,
    deterministic: bool,
) -> list[Tensor]:
    return _maps(grad, sizes, channels_last)


def _pool_backward_fake(
    grad: Tensor,
    argmax: Tensor,
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    sizes: list[int],
    channels_last: list[int],
    rounding: int,
    bins: int,
    deterministic: bool,
) -> list[Tensor]:
    return _maps(grad, sizes, channels_last)


def _precise_rois_backward_fake(
    grad: Tensor, features: list[Tensor], rois: Tensor, levels: Tensor | None, scales: list[float]
) -> Tensor:
    return torch.empty(rois.shape, dtype=rois.dtype, device=rois.device)


def _remember(ctx: Any, features: list[Tensor], channels_last: bool) -> None:
    """Keep what a backward needs to know of the maps: their sizes and, for each, its layout."""
    first = features[0]
    sizes = [first.shape[0], first.shape[1]]
    for level in features:
        sizes += [level.shape[2], level.shape[3]]
    ctx.sizes = sizes
    ctx.layouts = [
        int(not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)) for t in features
    ]
    ctx.device_type = first.device.type


def _deterministic() -> bool:
    """Whether CUDA backwards must do without atomics; those of the CPU always do."""
    return torch.are_deterministic_algorithms_enabled()


def _average_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, levels, scales, _, _, geometry, ratio, channels_last = inputs
    _remember(ctx, features, channels_last)
    ctx.scales, ctx.geometry, ctx.ratio = scales, geometry, ratio
    needs_maps = geometry == PRECISE and rois.requires_grad
    ctx.save_for_backward(rois, levels, *(features if needs_maps else ()))


def _average_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rois, levels, *features = ctx.saved_tensors
    maps: list[Tensor] | list[None]
    if any(ctx.needs_input_grad[0]):
        maps = torch.ops.maskrcnn.roi_average_backward.default(
            grad, rois, levels, ctx.scales, ctx.sizes, ctx.layouts, ctx.geometry, ctx.ratio, _deterministic()
        )
    else:
        maps = [None] * len(ctx.layouts)
    boxes = None
    if features and ctx.needs_input_grad[1]:
        boxes = torch.ops.maskrcnn.roi_precise_rois_backward.default(grad, features, rois, levels, ctx.scales)
    return maps, boxes, None, None, None, None, None, None, None


def _sample_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, levels, scales, _, _, geometry, ratio, maximum, random, seed, channels_last = inputs
    _remember(ctx, features, channels_last)
    ctx.scales, ctx.geometry, ctx.ratio = scales, geometry, ratio
    ctx.maximum, ctx.random, ctx.seed = maximum, random, seed
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], rois, levels)


def _sample_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    argmax, rois, levels = ctx.saved_tensors
    maps = torch.ops.maskrcnn.roi_sample_backward.default(
        grad,
        argmax,
        rois,
        levels,
        ctx.scales,
        ctx.sizes,
        ctx.layouts,
        ctx.geometry,
        ctx.ratio,
        ctx.maximum,
        ctx.random,
        ctx.seed,
        _deterministic(),
    )
    return maps, None, None, None, None, None, None, None, None, None, None, None


def _pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, levels, scales, _, _, rounding, bins, channels_last = inputs
    _remember(ctx, features, channels_last)
    ctx.scales, ctx.rounding, ctx.bins = scales, rounding, bins
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], rois, levels)


def _pool_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    argmax, rois, levels = ctx.saved_tensors
    maps = torch.ops.maskrcnn.roi_pool_backward.default(
        grad,
        argmax,
        rois,
        levels,
        ctx.scales,
        ctx.sizes,
        ctx.layouts,
        ctx.rounding,
        ctx.bins,
        _deterministic(),
    )
    return maps, None, None, None, None, None, None, None, None
