"""Ground-truth masks inside RoIs, at the size that a mask head predicts.

Legend: R = RoIs, P = vertices of polygons, Q = polygons, M = side of the target.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.layers import roi_align
from maskrcnn.structures import InstanceMasks, rle
from maskrcnn.structures.masks import Bitmap, FloatArray, IntArray

#: How a mask becomes a target: see :func:`masks_in_boxes`.
MaskTarget: TypeAlias = Literal["polygon", "bitmask", "bitmask_hard"]

#: Detectron2 (``rasterize_polygons_within_box``) takes no box side for smaller than this, in pixels.
_MIN_BOX_SIDE = 0.1


def masks_in_boxes(
    masks: InstanceMasks, boxes: Tensor, indices: Tensor, size: int, mode: MaskTarget = "polygon"
) -> Tensor:
    """The mask of instance ``indices[r]`` inside ``boxes[r]``, at ``size`` x ``size``.

    Bitmaps are read in their stored frame, into which the boxes are mapped; polygons become bitmaps of the
    current frame first where a bitmap is asked for.

    Args:
        boxes: float [R, 4] xyxy, the masks' current frame, any device.
        indices: int64 [R], places among the masks.
        mode:
            ``polygon``: polygons are moved and scaled into the box and drawn there at ``size`` x ``size``
            by pycocotools, hard 0/1, as Detectron2 does; RLE instances fall to ``bitmask_hard``.
            ``bitmask``: RoIAlign (not aligned, adaptive sampling) of the bitmap, soft in [0, 1], as
            torchvision's ``project_masks_on_boxes``.
            ``bitmask_hard``: RoIAlign (aligned, adaptive sampling) of the bitmap >= 0.5, as Detectron2's
            ``BitMasks.crop_and_resize``.

    Returns:
        float32 (float64 where ``boxes`` is) [R, size, size] in [0, 1], on the device of ``boxes``.

    Raises:
        ValueError: an unknown mode, or an index out of range.
    """
    if mode not in get_args(MaskTarget):
        raise ValueError(f"mask target mode {mode!r}; known: {', '.join(get_args(MaskTarget))}")
    index = indices.detach().cpu().numpy().astype(np.int64)
    if index.size and (index.min() < 0 or index.max() >= len(masks)):
        raise ValueError(f"mask index out of range: {index.min()}..{index.max()} of {len(masks)}")
    rois = boxes.detach().cpu().double().numpy()
    dtype = np.float64 if boxes.dtype == torch.float64 else np.float32
    out = np.zeros((len(index), size, size), dtype=dtype)
    drawn = np.array([mode == "polygon" and masks.is_polygon(i) for i in index.tolist()], dtype=bool)
    rows = np.flatnonzero(drawn)
    if len(rows):
        out[rows] = draw_in_boxes(*masks.packed_polygons(index[rows]), rois[rows], size)
    rest = np.flatnonzero(~drawn)
    for i in np.unique(index[rest]).tolist():
        rows = rest[index[rest] == i]
        out[rows] = align_in_boxes(*masks.placed_bitmap(i), rois[rows], size, mode == "bitmask", dtype)
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
