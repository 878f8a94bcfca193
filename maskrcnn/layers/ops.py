"""Where the RoI operators meet torch: the compiled kernels if they are loaded, else the reference twins.

Schemas live in ``csrc/ops.cpp``.  Here each compiled operator gets what torch needs to trace and to
differentiate it (a fake version and an autograd formula, ``autograd.py``), and each public function the one
line that picks compiled or reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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


def nms(
    boxes: Tensor,
    scores: Tensor,
    real: Tensor,
    iou_threshold: float,
    count: int,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Suppress, in every row, each box that overlaps a better one by more than ``iou_threshold``.

    Shapes follow from shapes, and nothing waits for the device.  A row gives what ``torchvision.ops.nms``
    (with groups ``batched_nms``) gives of its real boxes on a CPU, to the index; so does a GPU.  A NaN score
    is better than any number, a box with a NaN neither suppresses nor is suppressed: as there.

    Args:
        boxes: [B, M, 4] xyxy, float32 or float64 (others are taken as float32).
        scores: [B, M].
        real: bool [B, M]; the others are not looked at.
        iou_threshold: 0 or more.
        count: how many are kept of a row at most.
        groups: int64 [B, M], the group (class, level) of each box, from 0 on; groups do not suppress one
            another.

    Returns:
        index: int64 [B, count], places in M of the boxes kept, by falling score (ties: the lower place
            first); 0 from ``number`` on.
        number: int64 [B], how many are kept.

    Raises:
        ValueError: a negative threshold or count.
    """
    if not iou_threshold >= 0 or count < 0:
        raise ValueError(f"nms: iou_threshold {iou_threshold} and count {count} must not be negative.")
    boxes = _wide(boxes.detach())
    if groups is not None:
        boxes, groups = set_apart(boxes, groups, real)
    arguments = boxes, scores.detach().to(boxes.dtype), real, groups, iou_threshold, count
    if has_kernels(boxes.device.type):
        found: tuple[Tensor, Tensor] = torch.ops.maskrcnn.nms.default(*arguments)
        return found
    return reference.nms(*arguments)


#: Up to so many boxes torchvision's ``batched_nms`` moves groups apart, on a CPU.
FEW = 1000
#: More boxes of an image are torchvision's, by type of device: a GPU's mask of who suppresses whom grows with
#: their square.
MOST_AT_ONCE = {"cuda": 25_000}


def set_apart(boxes: Tensor, groups: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and groups of which NMS gives what ``torchvision.ops.batched_nms`` gives on a CPU, to the index.

    There, up to 1000 boxes are moved by more than the largest coordinate for each group and then suppressed
    as one group, more of them group by group.  Moved boxes have rounded sides, so an IoU that is all but the
    threshold may fall on its other side.

    Args:
        boxes: [B, M, 4] xyxy.
        groups: int64 [B, M].
        real: bool [B, M].

    Returns:
        boxes: [B, M, 4]; groups: int64 [B, M].
    """
    places = boxes.shape[1]
    if places == 0:
        return boxes, groups
    most = boxes.masked_fill(~real[..., None], -float("inf")).amax(dim=(1, 2))
    moved = boxes + (groups.to(boxes.dtype) * (most + 1)[:, None])[..., None]
    few = (real.sum(dim=1) <= FEW)[:, None]
    return torch.where(few[..., None], moved, boxes), groups.masked_fill(few, 0)


def match(
    truth: Tensor,
    truth_real: Tensor,
    boxes: Tensor,
    low: float,
    high: float,
    low_quality: bool,
    floor: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Give every box of every image the ground truth that it overlaps most, and a label: 1, 0 or -1.

    ``modeling.matching.match_boxes`` says what the options and labels mean; nothing waits for the device.

    Args:
        truth: [N, G, 4] xyxy.
        truth_real: bool [N, G]; the others overlap nothing and are given to nobody.
        boxes: [M, 4] or [N, M, 4] xyxy, of the dtype of ``truth``; a box with a NaN overlaps nothing.

    Returns:
        index: int64 [N, M] into G, of several the first (0 where an image has none; meaningless unless
            positive).
        labels: int8 [N, M].
    """
    arguments = truth.detach(), truth_real, boxes.detach(), low, high, low_quality, floor
    if truth.dtype == boxes.dtype and truth.dtype.itemsize >= 4 and has_kernels(boxes.device.type):
        found: tuple[Tensor, Tensor] = torch.ops.maskrcnn.match.default(*arguments)
        return found
    return reference.match(*arguments)


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, count: int | None = None
) -> Tensor:
    """Suppress, within each group, every box that overlaps a better one by more than ``iou_threshold``.

    Args:
        boxes: [B, 4] xyxy.
        scores: [B].
        idxs: int64 [B], the group (class, level) of each box; groups do not suppress one another.
        iou_threshold: 0 .. 1.
        count: how many are kept at most; all of them where it is None.

    Returns:
        int64 [K], indices of the K boxes kept, best first (equal scores: the lower index first).
    """
    # Half-precision coordinates lose whole pixels at 1000 and more once groups are set apart.
    boxes = _wide(boxes)
    scores = scores.to(boxes.dtype)
    device, places = boxes.device.type, len(boxes)
    if not has_kernels(device) or places > MOST_AT_ONCE.get(device, places):
        import torchvision

        kept: Tensor = torchvision.ops.batched_nms(boxes, scores, idxs, iou_threshold).sort().values
        return kept[scores[kept].argsort(descending=True, stable=True)][:count]
    every = torch.ones(1, places, dtype=torch.bool, device=boxes.device)
    count = places if count is None else min(count, places)
    index, number = nms(boxes[None], scores[None], every, iou_threshold, count, idxs[None])
    return index[0, : int(number)]


def nms_of_lists(
    boxes: Tensor, scores: Tensor, idxs: Tensor, sizes: Sequence[int], iou_threshold: float, count: int
) -> Tensor:
    """:func:`batched_nms` of several lists (images) that lie one behind another, to the index.

    Args:
        sizes: how many of the B boxes each list has; one list at least.
        count: how many are kept of each at most.

    Returns:
        int64 [K], indices of the K boxes kept, those of a list together.
    """
    device, places = boxes.device, max(sizes)
    starts = [0, *accumulate(sizes)][:-1]
    lists = [x.split(list(sizes)) for x in (boxes, scores, idxs)]
    if len(sizes) == 1 or not has_kernels(device.type) or places > MOST_AT_ONCE.get(device.type, places):
        rows = zip(*lists, starts, strict=True)
        return torch.cat([start + batched_nms(b, s, i, iou_threshold, count) for b, s, i, start in rows])
    box, score, group = (pad_sequence(x, batch_first=True) for x in lists)
    own = torch.tensor([sizes, starts], device=device)[..., None]
    real = torch.arange(places, device=device) < own[0]
    index, number = nms(box, score, real, iou_threshold, min(count, places), group)
    return (index + own[1])[torch.arange(index.shape[1], device=device) < number[:, None]]


def _wide(boxes: Tensor) -> Tensor:
    """Boxes of at least float32."""
    return boxes if boxes.dtype.itemsize >= 4 else boxes.float()
