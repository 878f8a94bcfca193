"""Where the RoI operators meet torch: the compiled kernels if they are loaded, else the reference twins.

Schemas live in ``csrc/ops.cpp``.  Here each compiled operator gets what torch needs to trace and to
differentiate it (a fake version and an autograd formula, ``autograd.py``), and each public function the one
line that picks compiled or reference.  Non-maximum suppression is torchvision's, which nothing here beats yet
at 1000-4000 boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torchvision
from torch import Tensor

from maskrcnn.layers import reference
from maskrcnn.layers.geometry import LEGACY, PRECISE, Bins, Rounding
from maskrcnn.layers.reference import is_channels_last
from maskrcnn.native import library as _library

if TYPE_CHECKING:
    from maskrcnn.layers.arguments import RoiArguments

ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
BINS: tuple[Bins, ...] = get_args(Bins)


@cache
def compiled_devices() -> frozenset[str]:
    """Device types that have compiled kernels; the others use the reference twins.

    The first call loads the compiled operators (and builds them where need be) and gives them their fakes and
    gradients; until then nothing is looked for.
    """
    if not _library.compiled():
        return frozenset()
    from maskrcnn.layers import autograd

    autograd.register()
    return frozenset({"cpu", "cuda", "meta"} if _library.cuda_compiled() else {"cpu", "meta"})


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_kernels(device_type: str) -> bool:
    """Whether a device type has compiled kernels: a constant to a tracer."""
    return device_type in compiled_devices()


def areas_of_codes() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """What measures compressed run-length codes; the slow twin is in ``structures.rle``.

    It takes text, uint8 [C], the codes one behind the other, and sizes and totals, int64 [n], the characters
    of each, and the pixels of its image (below 2^31); it gives the mask pixels of each, int64 [n], -1 where a
    code does not fill its image.

    None where the operators were not built before: figures of files need no compiler.
    """
    if not _library.at_hand():
        return None
    found: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.ops.maskrcnn.rle_areas.default
    return found


def rasterise(packed: tuple[Tensor, ...], boxes: Tensor, instance: Tensor, size: int, soft: bool) -> Tensor:
    """Masks inside boxes by the compiled kernels; see ``modeling.roi.mask_targets``, where its slow twin is.

    Args:
        packed: the tensors of ``structures.PackedMasks``, in their order.
        boxes: float32 or float64 [R, 4].  instance: int64 [R].
    """
    found: Tensor = torch.ops.maskrcnn.rasterise.default(*packed, boxes, instance, size, soft)
    return found


#: Feature levels that a CUDA kernel takes (kMaxLevels in csrc/cuda/common.cuh); others take any number.
MOST_CUDA_LEVELS = 16


def average(name: str, args: RoiArguments, geometry: int, ratio: int) -> Tensor:
    """Weighted sums of cells: RoIAlign, RoIWarp, the legacy RoIAlign, PrRoI pooling -> [K, C, P, Q]."""
    features, rois, levels, scales, height, width = args
    if has_kernels(rois.device.type):
        last = is_channels_last(features[0])
        result: Tensor = torch.ops.maskrcnn.roi_average.default(*args, geometry, ratio, last)
        return result
    reference.check_values(name, features, rois, levels)
    if geometry in (LEGACY, PRECISE):
        return reference.weighed(features, rois, levels, scales, (height, width), geometry)
    return reference.sampled(features, rois.detach(), levels, scales, (height, width), geometry, ratio)


def sampled(
    name: str,
    args: RoiArguments,
    geometry: int,
    ratio: int,
    aggregation: Literal["avg", "max"],
    samples: Literal["grid", "random"],
    seed: int,
) -> Tensor:
    """RoIAlign and RoIWarp with any aggregation and sample positions -> [K, C, P, Q]."""
    if aggregation == "avg" and samples == "grid":
        return average(name, args, geometry, ratio)
    features, rois, levels, scales, height, width = args
    if has_kernels(rois.device.type):
        options = geometry, ratio, aggregation == "max", samples == "random", seed
        last = is_channels_last(features[0])
        result: Tensor = torch.ops.maskrcnn.roi_sample.default(*args, *options, last)[0]
        return result
    reference.check_values(name, features, rois, levels)
    kind = geometry, ratio, aggregation, samples, seed
    return reference.sampled(features, rois.detach(), levels, scales, (height, width), *kind)


def pooled(name: str, args: RoiArguments, rounding: Rounding, bins: Bins) -> Tensor:
    """RoIPool -> [K, C, P, Q]."""
    features, rois, levels, scales, height, width = args
    if has_kernels(rois.device.type):
        options = ROUNDINGS.index(rounding), BINS.index(bins), is_channels_last(features[0])
        result: Tensor = torch.ops.maskrcnn.roi_pool.default(*args, *options)[0]
        return result
    reference.check_values(name, features, rois, levels)
    return reference.roi_pool(features, rois.detach(), levels, scales, (height, width), rounding, bins)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress, within each group, every box that overlaps a better one by more than ``iou_threshold``.

    Args:
        boxes: [B, 4] xyxy.
        scores: [B].
        idxs: int64 [B], the group (class, level) of each box; groups do not suppress one another.
        iou_threshold: 0 .. 1.

    Returns:
        int64 indices of the boxes kept, best first.
    """
    # Half-precision coordinates lose whole pixels at 1000 and more once groups are set apart.
    if boxes.dtype.itemsize < 4:
        boxes = boxes.float()
    kept: Tensor = torchvision.ops.batched_nms(boxes, scores.to(boxes.dtype), idxs, iou_threshold)
    return kept
