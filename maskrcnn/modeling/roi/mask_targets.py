"""Ground-truth masks inside RoIs, at the size that a mask head predicts.

Legend: R = RoIs, P = vertices of polygons, Q = polygons, M = side of the target.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.layers import ops, roi_align
from maskrcnn.structures import InstanceMasks, rle
from maskrcnn.structures.masks import Bitmap, FloatArray, IntArray, gather_ranges
from maskrcnn.structures.packed_masks import PackedMasks

#: How a mask becomes a target: see :func:`rasterise`.
MaskTarget: TypeAlias = Literal["polygon", "bitmask", "bitmask_hard"]

#: Detectron2 (``rasterize_polygons_within_box``) takes no box side for smaller than this, in pixels.
_MIN_BOX_SIDE = 0.1


def masks_in_boxes(
    masks: InstanceMasks, boxes: Tensor, indices: Tensor, size: int, mode: MaskTarget = "polygon"
) -> Tensor:
    """The mask of instance ``indices[r]`` inside ``boxes[r]``: :func:`rasterise` for one image's masks.

    Args:
        boxes: float [R, 4] xyxy, the masks' current frame, any device.
        indices: int64 [R], places among the masks.

    Returns:
        float32 (float64 where ``boxes`` is) [R, size, size] in [0, 1], on the device of ``boxes``.

    Raises:
        ValueError: an unknown mode, or an index out of range.
    """
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(masks):
        raise ValueError(
            f"mask index out of range: {int(indices.min())}..{int(indices.max())} of {len(masks)}"
        )
    packed = PackedMasks.of([masks], drawn=mode == "polygon").to(boxes.device)
    return rasterise(packed, boxes, indices.to(boxes.device), size, mode)


@torch.no_grad()
def rasterise(packed: PackedMasks, boxes: Tensor, instance: Tensor, size: int, mode: MaskTarget) -> Tensor:
    """The mask of instance ``instance[r]`` inside ``boxes[r]``, at ``size`` x ``size``, where the boxes are.

    Bitmaps are read in their stored frame, into which the boxes are mapped.  Where the device has no compiled
    operators the slow twin takes over, on the CPU.

    Args:
        packed: the masks of a batch, on the device of ``boxes``.
        boxes: float [R, 4] xyxy, network frame.
        instance: int64 [R], rows of ``packed``; -1: none.
        mode:
            ``polygon``: polygons are moved and scaled into the box and drawn there at ``size`` x ``size``
            as pycocotools draws, hard 0/1, as Detectron2 does; RLE instances fall to ``bitmask_hard``.
            ``bitmask``: RoIAlign (not aligned, adaptive sampling) of the bitmap, soft in [0, 1], as
            torchvision's ``project_masks_on_boxes``.
            ``bitmask_hard``: RoIAlign (aligned, adaptive sampling) of the bitmap >= 0.5, as Detectron2's
            ``BitMasks.crop_and_resize``.

    Returns:
        float32 (float64 where ``boxes`` is) [R, size, size] in [0, 1], 0 where there is no instance.

    Raises:
        ValueError: an unknown mode, or masks that were packed for another.
    """
    if mode not in get_args(MaskTarget):
        raise ValueError(f"mask target mode {mode!r}; known: {', '.join(get_args(MaskTarget))}")
    if packed.drawn != (mode == "polygon"):
        raise ValueError(f"masks packed with drawn={packed.drawn} cannot be read in the mode {mode!r}")
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    if ops.has_kernels(boxes.device.type):
        return ops.rasterise(packed.tensors, boxes, instance, size, mode == "bitmask")
    return _rasterise_slowly(packed, boxes, instance, size, mode == "bitmask")


def _rasterise_slowly(packed: PackedMasks, boxes: Tensor, instance: Tensor, size: int, soft: bool) -> Tensor:
    """The slow twin of the operator, by pycocotools and RoIAlign."""
    packed, index = packed.to("cpu"), instance.cpu().numpy()
    rois = boxes.cpu().double().numpy()
    dtype = np.float64 if boxes.dtype == torch.float64 else np.float32
    out = np.zeros((len(index), size, size), dtype=dtype)
    ends = packed.instances.numpy()
    polygons, columns = np.diff(ends[:, :2], axis=0, prepend=0).T
    rows = np.flatnonzero((index >= 0) & (polygons[index] > 0)) if len(ends) else np.zeros(0, dtype=np.int64)
    if len(rows):
        of_rows, roi_ends = gather_ranges(ends[:, 0], index[rows])
        points, polygon_ends = gather_ranges(packed.polygon_ends.numpy(), of_rows)
        out[rows] = draw_in_boxes(packed.points.numpy()[points], polygon_ends, roi_ends, rois[rows], size)
    for i in np.unique(index[index >= 0]).tolist():
        if columns[i]:
            rows = np.flatnonzero(index == i)
            out[rows] = align_in_boxes(*packed.bitmap(i), rois[rows], size, soft, dtype)
    return torch.from_numpy(out).to(boxes.device)


def draw_in_boxes(
    points: FloatArray, polygon_ends: IntArray, roi_ends: IntArray, rois: FloatArray, size: int
) -> Bitmap:
    """The union of the polygons of each RoI, drawn inside it.

    Args:
        points: float64 [P, 2], the vertices of all polygons in a row, pixels.
        polygon_ends: int64 [Q], where in ``points`` each polygon ends.
        roi_ends: int64 [R], where in ``polygon_ends`` the polygons of each RoI end.
        rois: float64 [R, 4] xyxy, the frame of the points.

    Returns:
        uint8 0/1 [R, size, size].
    """
    per_roi = np.diff(roi_ends, prepend=0)
    roi = np.repeat(np.repeat(np.arange(len(rois)), per_roi), np.diff(polygon_ends, prepend=0))
    scale = size / np.maximum(rois[:, 2:] - rois[:, :2], _MIN_BOX_SIDE)
    inside = (points - rois[roi, :2]) * scale[roi]
    drawn = rle.draw_polygons(np.split(inside.reshape(-1), 2 * polygon_ends[:-1]), size, size)
    if (per_roi != 1).any():
        starts = roi_ends - per_roi
        drawn = [
            rle.union(drawn[a:b], size, size) for a, b in zip(starts.tolist(), roi_ends.tolist(), strict=True)
        ]
    return rle.decode_many(drawn)


def align_in_boxes(
    bitmap: Bitmap,
    placing: tuple[float, float, float, float],
    rois: FloatArray,
    size: int,
    soft: bool,
    dtype: npt.DTypeLike,
) -> npt.NDArray[Any]:
    """RoIAlign of one bitmap in each RoI, hard 0/1 unless ``soft``.

    Args:
        bitmap: uint8 0/1 [h, w].
        placing: (sx, sy, tx, ty); the bitmap's point (x, y) lies at (sx x + tx, sy y + ty).
        rois: float64 [R, 4] xyxy, pixels of the frame in which it is placed.
        soft: not aligned, and the values as they are; else aligned, and values >= 0.5.

    Returns:
        ``dtype`` [R, size, size] in [0, 1].
    """
    if bitmap.size == 0:
        return np.zeros((len(rois), size, size), dtype=dtype)
    scale, shift = np.array(2 * placing[:2]), np.array(2 * placing[2:])
    # Not aligned, index x stands for the point x + 0.5 of the current frame; keep that point.
    half = 0.5 if soft else 0.0
    mapped = (rois + half - shift) / scale - half
    batched = np.concatenate([np.zeros((len(rois), 1)), mapped], axis=1)
    image = torch.from_numpy(np.ascontiguousarray(bitmap, dtype=dtype))[None, None]
    values: Tensor = roi_align(image, torch.from_numpy(batched.astype(dtype)), size, 1.0, -1, not soft)[:, 0]
    result: npt.NDArray[Any] = (values if soft else values >= 0.5).numpy()
    return result
