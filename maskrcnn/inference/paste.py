"""From mask probabilities over boxes to binary masks of the image, without an image per instance.

Two readings of "paste" exist among the peers and differ by a pixel at the outline (a third, ``smooth``, has a
module of its own):

- ``aligned`` (the default; Detectron2's): the M x M probabilities cover the box exactly, in continuous
  coordinates; the value at a pixel is the bilinear interpolation at its centre, zero beyond the box.
  Since that function is piecewise linear down each pixel column, the rows at which it passes 0.5 are
  computed directly and written as run lengths: the work grows with the box's width and with M, and no
  pixel is ever visited.
- ``torchvision``: the probabilities are padded by one cell, the box is enlarged to match and truncated
  to integers, and the padded grid is resized to it.  Bit-equal to
  ``torchvision.models.detection.roi_heads.paste_masks_in_image`` followed by ``> 0.5``.

Legend: D = detections, M = side of the mask head's output, H, W = image size in pixels, all boxes xyxy
in the frame of that image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.config.registry import Named
from maskrcnn.inference.clean_masks import Cleaning, clean_masks
from maskrcnn.structures.rle import Runs, TextRLE, decode, encode_changes, odd_positions, window_changes

Paste = Literal["aligned", "torchvision", "smooth"]
#: Probability from which a pixel belongs to the mask (Mask R-CNN, section 3.1, "Inference").
THRESHOLD = 0.5
#: Columns interpolated at once by ``aligned``; bounds its scratch memory to some tens of megabytes.
COLUMNS_AT_ONCE = 1 << 15

FloatArray = npt.NDArray[np.float64]


#: From probabilities [D, M, M] and boxes [D, 4] with an area, on the CPU, and the image's height and width to
#: toggle positions of each mask.
PASTES: Named[Callable[[Tensor, Tensor, int, int], list[Runs]]] = Named(
    "way to paste", "maskrcnn.inference", smooth="smooth_paste"
)


def encode_masks(
    mask_probs: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    paste: Paste = "aligned",
    clean: Cleaning | None = None,
) -> list[TextRLE]:
    """Binary masks of an image, run-length encoded.

    Args:
        mask_probs: float [D, M, M] in [0, 1], each over the extent of its own box.
        boxes: float [D, 4] xyxy in pixels; may overhang the image.  A negative side or a coordinate that
            is not finite gives an empty mask; so does a side of 0, but ``torchvision`` still draws a
            line of one pixel there.
        height, width: the image's size in pixels.
        paste: which of the readings, see the module.
        clean: what is mended then; None: nothing.

    Returns:
        D compressed RLEs of [height, width].

    Raises:
        ValueError: shapes that do not fit, or an unknown ``paste``.
    """
    if mask_probs.dim() != 3 or mask_probs.shape[1] != mask_probs.shape[2]:
        raise ValueError(f"mask_probs must be [D, M, M], got {tuple(mask_probs.shape)}")
    if boxes.shape != (len(mask_probs), 4):
        raise ValueError(f"boxes must be [{len(mask_probs)}, 4], got {tuple(boxes.shape)}")
    if paste not in PASTES.names():
        raise ValueError(f"paste must be one of {PASTES.names()}, got {paste!r}")
    probs = mask_probs.detach().float().cpu()
    boxes = boxes.detach().float().cpu()
    sides = boxes[:, 2:] - boxes[:, :2]
    proper = (sides >= 0) if paste == "torchvision" else (sides > 0)
    usable = (torch.isfinite(boxes).all(dim=1) & proper.all(dim=1)).tolist()
    changes: list[Runs] = [np.zeros(0, dtype=np.int64)] * len(probs)
    keep = [i for i, good in enumerate(usable) if good]
    if keep:
        found = PASTES.get(paste)(probs[keep], boxes[keep], height, width)
        for i, places in zip(keep, found, strict=True):
            changes[i] = places
    masks = encode_changes(changes, height, width)
    return masks if clean is None else clean_masks(masks, clean)


def paste_masks(
    mask_probs: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    paste: Paste = "aligned",
    clean: Cleaning | None = None,
) -> npt.NDArray[np.bool_]:
    """The same masks as bool [D, H, W]: for pictures and tests; memory grows with D * H * W."""
    rles = encode_masks(mask_probs, boxes, height, width, paste, clean)
    if not rles:
        return np.zeros((0, height, width), dtype=np.bool_)
    return np.stack([decode(rle) for rle in rles]).astype(np.bool_)


@PASTES.register("aligned")
def _aligned(probs: Tensor, boxes: Tensor, height: int, width: int) -> list[Runs]:
    """Toggle positions of each mask, a few instances at a time."""
    xyxy = boxes.double().numpy()
    grids = probs.double().numpy()
    # Pixels whose centre i + 0.5 lies within the box.
    first = np.clip(np.ceil(xyxy[:, 0] - 0.5), 0, width).astype(np.int64)
    after = np.clip(np.floor(xyxy[:, 2] - 0.5) + 1, 0, width).astype(np.int64)
    columns = np.maximum(after - first, 0)
    out: list[Runs] = []
    start = 0
    while start < len(columns):
        stop = start + 1
        budget = COLUMNS_AT_ONCE - columns[start]
        while stop < len(columns) and columns[stop] <= budget:
            budget -= columns[stop]
            stop += 1
        part = slice(start, stop)
        out += _aligned_part(grids[part], xyxy[part], first[part], columns[part], height)
        start = stop
    return out


def _aligned_part(
    grids: FloatArray, boxes: FloatArray, first: Runs, columns: Runs, height: int
) -> list[Runs]:
    """Toggle positions of each of D masks.  Below, S = sum of ``columns``, the pixel columns in boxes."""
    count, side, _ = grids.shape
    # One cell of zeros around, stored by column: padded[d, x, y] with x, y in 0 .. side + 1.
    padded = np.zeros((count, side + 2, side + 2))
    padded[:, 1:-1, 1:-1] = grids.transpose(0, 2, 1)
    owner = np.repeat(np.arange(count), columns)
    ends = np.cumsum(columns)
    x = np.arange(len(owner)) - np.repeat(ends - columns - first, columns)
    cell_w = (boxes[:, 2] - boxes[:, 0]) / side
    cell_h = (boxes[:, 3] - boxes[:, 1]) / side
    # Horizontal interpolation at the pixel centres, between grid columns left and left + 1.
    across = (x + 0.5 - boxes[owner, 0]) / cell_w[owner] + 0.5
    left = np.clip(np.floor(across), 0, side).astype(np.int64)
    weight = (across - left)[:, None]
    low = padded[owner, left]
    profile = low + (padded[owner, left + 1] - low) * weight  # [S, side + 2], down each pixel column
    inside = profile >= THRESHOLD
    at, row = np.nonzero(inside[:, 1:] != inside[:, :-1])  # between knots row and row + 1
    above, below = profile[at, row], profile[at, row + 1]
    entering = inside[at, row + 1]
    who = owner[at]
    # Padded row r has its centre at y1 + (r - 0.5) * cell_h; pixel i its own at i + 0.5.
    y = boxes[who, 1] + (row - 0.5 + (THRESHOLD - above) / (below - above)) * cell_h[who] - 0.5
    pixel = np.where(entering, np.ceil(y), np.floor(y) + 1)  # the first at or beyond / beyond the crossing
    pixel = np.clip(pixel, 0, height).astype(np.int64)
    places = x[at] * height + pixel
    bounds = np.searchsorted(who, np.arange(count + 1))
    return [odd_positions(places[bounds[d] : bounds[d + 1]]) for d in range(count)]


@PASTES.register("torchvision")
def _torchvision(probs: Tensor, boxes: Tensor, height: int, width: int) -> list[Runs]:
    """Toggle positions of each mask, from a window no larger than its own integer box.

    The arithmetic, in float32 and in this order, is what makes the result bit-equal.
    """
    side = probs.shape[-1]
    scale = (side + 2) / side
    half_w = (boxes[:, 2] - boxes[:, 0]) * 0.5 * scale
    half_h = (boxes[:, 3] - boxes[:, 1]) * 0.5 * scale
    centre_x = (boxes[:, 2] + boxes[:, 0]) * 0.5
    centre_y = (boxes[:, 3] + boxes[:, 1]) * 0.5
    corners = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
    whole = torch.stack(corners, dim=1).to(torch.int64)
    padded = torch.nn.functional.pad(probs, (1, 1, 1, 1))
    out: list[Runs] = []
    for grid, (x1, y1, x2, y2) in zip(padded, whole.tolist(), strict=True):
        left, right = max(x1, 0), min(x2 + 1, width)
        top, bottom = max(y1, 0), min(y2 + 1, height)
        if left >= right or top >= bottom:
            out.append(np.zeros(0, dtype=np.int64))
            continue
        # + 1: torchvision's integer boxes include their last pixel.
        resized = torch.nn.functional.interpolate(
            grid[None, None], size=(y2 - y1 + 1, x2 - x1 + 1), mode="bilinear", align_corners=False
        )[0, 0]
        window = resized[top - y1 : bottom - y1, left - x1 : right - x1] > THRESHOLD
        out.append(window_changes(window.numpy(), left, top, height))
    return out
