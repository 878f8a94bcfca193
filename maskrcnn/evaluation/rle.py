"""Run-length encoded masks from runs or small windows, never from a full image.

A COCO RLE lists run lengths in column-major order (down the columns, left to right), beginning with a
run of zeros.  A mask is therefore the sorted list of flat positions ``x * height + y`` at which the value
changes; that list is what this module works on.

Legend: D = masks of one image, H, W = image height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class RLE(TypedDict):
    """A compressed COCO mask: ``size`` is [height, width] in pixels, ``counts`` COCO's ASCII string."""

    size: list[int]
    counts: str


def odd_positions(positions: IntArray) -> IntArray:
    """The positions at which the value really changes: sorted, those listed an even number of times dropped.

    Each entry of ``positions`` [P] toggles the value there, so two at one place cancel (the end of a run
    at the foot of a column and the start of the next at the head of the following column, for example).
    """
    if not len(positions):
        return positions
    unique, times = np.unique(positions, return_counts=True)
    return np.asarray(unique[times % 2 == 1], dtype=np.int64)


def encode_changes(changes: Sequence[IntArray], height: int, width: int) -> list[RLE]:
    """RLEs of D masks from the flat column-major positions [P] at which each toggles, ascending.

    A position of ``height * width`` (the end) may be listed or left out; runs of nothing are not written.
    """
    total = height * width
    raw = []
    for places in changes:
        if len(places) and places[-1] == total:
            places = places[:-1]
        counts = np.diff(places, prepend=0, append=total)
        raw.append({"size": [height, width], "counts": counts})
    if not raw:
        return []
    return [as_text(rle) for rle in coco_mask.frPyObjects(raw, height, width)]


def window_changes(window: BoolArray, x0: int, y0: int, height: int) -> IntArray:
    """Toggle positions of a mask that is ``window`` [h, w] placed at pixel (``x0``, ``y0``), zero elsewhere.

    The window must lie inside an image of ``height`` rows.
    """
    h, w = window.shape
    columns = np.zeros((w, h + 1), dtype=np.int8)
    columns[:, :h] = window.T
    flat = np.flatnonzero(np.diff(columns.reshape(-1), prepend=np.int8(0)))
    column, row = np.divmod(flat, h + 1)
    return odd_positions((x0 + column) * height + y0 + row)


def as_text(rle: dict[str, Any]) -> RLE:
    """A pycocotools RLE with ``counts`` as text, as JSON needs it."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return RLE(size=[int(side) for side in rle["size"]], counts=text)


def decode(rle: RLE) -> npt.NDArray[np.uint8]:
    """The mask as uint8 [H, W] of 0 and 1."""
    return np.asarray(coco_mask.decode(rle), dtype=np.uint8)
