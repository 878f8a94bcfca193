"""Common argument checks of the RoI operators: shapes, types and devices, each fault a sentence.

Values (a batch index out of range, a NaN) are checked by the CPU kernels before any work; here they would
break compiled graphs and make a GPU wait.  ``MASKRCNN_CHECK=1`` checks them on CUDA too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.layers import reference

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class RoiArguments(NamedTuple):
    """Checked arguments in the form the operators take."""

    features: list[Tensor]  #: levels, [N, C, Hl, Wl] each
    rois: Tensor  #: [K, 5] float32 or float64: batch index, x1, y1, x2, y2 (image coordinates)
    levels: Tensor | None  #: int64 [K], or None for a single level
    scales: list[float]  #: cells per image pixel, one a level
    height: int  #: output bins down
    width: int  #: output bins across


def prepare(
    name: str,
    input: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float],
    levels: Tensor | None,
) -> RoiArguments:
    """Check what a user passed (``boxes`` [K, 5], or [L, 4] an image); ValueError or TypeError tells."""
    if isinstance(input, Tensor):
        features = [input]
        scales = [_scale(name, spatial_scale)]
    else:
        features = list(input)
        if not features:
            raise ValueError(f"{name}: the list of feature levels is empty.")
        if isinstance(spatial_scale, (int, float)) or len(spatial_scale) != len(features):
            raise ValueError(
                f"{name}: {len(features)} feature level(s) need a list of as many spatial scales, "
                f"got {spatial_scale!r}."
            )
        scales = [_scale(name, s) for s in spatial_scale]
    first = _check_features(name, features)
    rois = boxes if isinstance(boxes, Tensor) else _rois_from_list(name, boxes, first)
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(
            f"{name}: boxes must be a [K, 5] tensor (batch index, x1, y1, x2, y2) or a list with one [L, 4] "
            f"tensor an image, got a tensor of shape {tuple(rois.shape)}."
        )
    if rois.device != first.device:
        raise ValueError(f"{name}: the features are on {first.device} but the boxes on {rois.device}.")
    # RoI coordinates are float32 or better: a half-precision x of 900 is off by half a pixel.
    if rois.dtype is not torch.float64 and (rois.dtype is not torch.float32 or first.dtype is torch.float64):
        if rois.dtype not in _FLOATS:
            raise TypeError(f"{name}: boxes must be floating point, got {rois.dtype}.")
        rois = rois.to(torch.float64 if first.dtype is torch.float64 else torch.float32)
    if levels is not None:
        _check_levels(name, levels, rois)
    elif len(features) > 1:
        raise ValueError(f"{name}: {len(features)} feature levels need `levels`, an int64 index a RoI.")
    height, width = _pair(name, output_size)
    if rois.is_cuda and os.environ.get("MASKRCNN_CHECK") == "1":
        reference.check_values(name, features, rois, levels)
    return RoiArguments(features, rois, levels, scales, height, width)


def check_choice(name: str, argument: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: {argument} must be one of {', '.join(choices)}, got {value!r}.")


def check_seed(name: str, seed: int) -> None:
    """Raise unless ``seed`` fits the generator's 32 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"{name}: seed must be an integer in 0 .. 2^32 - 1, got {seed!r}.")


def check_sampling_ratio(name: str, ratio: int) -> int:
    """Samples a bin and axis; 0 and below mean adaptive."""
    if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio > 4096:
        raise ValueError(f"{name}: sampling_ratio must be an integer up to 4096, got {ratio!r}.")
    return max(ratio, 0)


def _scale(name: str, value: float | Sequence[float]) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name}: spatial_scale must be a number for a single feature level, got {value!r}.")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: spatial_scale must be a positive finite number, got {value!r}.")
    return float(value)


def _check_features(name: str, features: list[Tensor]) -> Tensor:
    first = features[0]
    for index, level in enumerate(features):
        what = "the input" if len(features) == 1 else f"feature level {index}"
        if not isinstance(level, Tensor):
            raise TypeError(f"{name}: {what} must be a tensor, got {type(level).__name__}.")
        if level.ndim != 4:
            raise ValueError(f"{name}: {what} must be [N, C, H, W], got shape {tuple(level.shape)}.")
        if level.dtype not in _FLOATS:
            raise TypeError(f"{name}: {what} must be floating point, got {level.dtype}.")
        if level.shape[2] == 0 or level.shape[3] == 0:
            raise ValueError(f"{name}: {what} has an empty map, shape {tuple(level.shape)}.")
        if index and (
            level.shape[:2] != first.shape[:2] or level.dtype != first.dtype or level.device != first.device
        ):
            raise ValueError(
                f"{name}: {what} ({tuple(level.shape)}, {level.dtype}, {level.device}) differs from level 0 "
                f"({tuple(first.shape)}, {first.dtype}, {first.device}) in batch, channels, type or device."
            )
    return first


def _rois_from_list(name: str, boxes: Sequence[Tensor], first: Tensor) -> Tensor:
    if len(boxes) != first.shape[0]:
        raise ValueError(f"{name}: {len(boxes)} box list(s) for {first.shape[0]} image(s).")
    rows = []
    for image, box in enumerate(boxes):
        if not isinstance(box, Tensor) or box.ndim != 2 or box.shape[1] != 4:
            shape = tuple(box.shape) if isinstance(box, Tensor) else type(box).__name__
            raise ValueError(f"{name}: the boxes of image {image} must be an [L, 4] tensor, got {shape}.")
        wide = box if box.dtype in (torch.float32, torch.float64) else box.float()
        rows.append(torch.cat([wide.new_full((box.shape[0], 1), image), wide], dim=1))
    return torch.cat(rows) if rows else first.new_zeros((0, 5), dtype=torch.float32)


def _check_levels(name: str, levels: Tensor, rois: Tensor) -> None:
    if levels.dtype != torch.int64:
        raise TypeError(f"{name}: levels must be int64, got {levels.dtype}.")
    if levels.ndim != 1 or levels.shape[0] != rois.shape[0]:
        raise ValueError(
            f"{name}: levels must be [K] with one index for each of the {rois.shape[0]} RoI(s), "
            f"got shape {tuple(levels.shape)}."
        )
    if levels.device != rois.device:
        raise ValueError(f"{name}: the boxes are on {rois.device} but the levels on {levels.device}.")


def _pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size,) if isinstance(size, int) else size
    if len(sides) not in (1, 2):
        raise ValueError(f"{name}: output_size must be one or two integers, got {size!r}.")
    if min(sides) < 1:
        raise ValueError(f"{name}: output_size must be positive, got {size!r}.")
    return sides[0], sides[-1]
