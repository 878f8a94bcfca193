"""Boundary IoU: how well the outlines of masks agree (Cheng et al. 2021).

The boundary of a mask are its pixels within d of its outside, d = 2 % of the image's diagonal and 1 at least,
and what lies beyond the image is outside.  The figure of a pair is the smaller of the masks' IoU and of their
boundaries'; with a crowd the masks' alone.  These are the numbers of boundary-iou-api and of vernier.

Only pairs of one class whose masks overlap by 0.5 are measured: no other can be found at COCO's thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.evaluation.report.overlaps import Flags, Overlaps, Pairs
from maskrcnn.evaluation.report.pairing import THRESHOLDS
from maskrcnn.structures import rle

#: Width of the boundary as a share of the image's diagonal.
WIDTH = 0.02
#: Boundaries that are kept at a time; a detection has few candidates, an object many.
_KEPT = 4096
#: Pairs between two calls of a progress function.
_STEP = 2000

#: A 0/1 bitmap and its corner (x0, y0) in the image.
Crop = tuple[npt.NDArray[np.uint8], int, int]


def boundary_overlaps(
    found: Overlaps, masks: Sequence[rle.RLE], progress: Callable[[float], None] = lambda share: None
) -> Overlaps:
    """The same with the pairs' boundary IoU; those left out above are not in it.

    Args:
        found: of masks.  masks: those of the detections in the order that was read (``Overlaps.row``).
        progress: told now and then which share of the pairs is done.
    """
    pairs = found.pairs.select(found.same_class & (found.pairs.iou >= THRESHOLDS[0]))
    truth = found.truth

    @lru_cache(maxsize=_KEPT)
    def of_object(place: int) -> Crop:
        row = int(found.annotation[place])
        return boundary({"size": truth.sizes[truth.images[row]].tolist(), "counts": truth.mask(row)})

    @lru_cache(maxsize=_KEPT)
    def of_detection(place: int) -> Crop:
        return boundary(masks[found.row[place]])

    iou = pairs.iou.copy()
    open_ = ~found.crowd[pairs.wanted] & ~_all_boundary(found, masks, pairs)
    for i in np.flatnonzero(open_).tolist():
        iou[i] = min(iou[i], overlap(of_detection(int(pairs.found[i])), of_object(int(pairs.wanted[i]))))
        if i % _STEP == 0:
            progress(i / len(pairs))
    progress(1.0)
    return replace(found, pairs=replace(pairs, iou=iou))


def _all_boundary(found: Overlaps, masks: Sequence[rle.RLE], pairs: Pairs) -> Flags:
    """bool [P], pairs of two masks so thin that they are boundary throughout: its IoU is the masks'."""
    truth = found.truth
    rows, which = np.unique(pairs.found, return_inverse=True)
    held, to = np.unique(pairs.wanted, return_inverse=True)
    sizes = truth.sizes[truth.images[found.annotation[held]]]
    codes = [
        {"size": size, "counts": truth.mask(i)}
        for size, i in zip(sizes.tolist(), found.annotation[held].tolist(), strict=True)
    ]
    thin = [
        rle.boxes(side)[:, 2:].min(axis=1, initial=np.inf)
        for side in ([masks[i] for i in found.row[rows].tolist()], codes)
    ]
    deep = np.array([2 * _reach(height, width) for height, width in sizes.tolist()])[to]
    return np.asarray((thin[0][which] <= deep) & (thin[1][to] <= deep))


def _reach(height: int, width: int) -> int:
    """How deep a boundary is, in pixels."""
    return max(round(WIDTH * float(np.sqrt(height**2 + width**2))), 1)


def boundary(mask: rle.RLE) -> Crop:
    """The boundary of a mask, as a bitmap around it."""
    reach = _reach(*mask["size"])
    counts = mask["counts"]
    code = {"size": mask["size"], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    bitmap, x0, y0 = rle.decode_crop(code)
    if not bitmap.size:
        return bitmap, x0, y0
    if 2 * reach >= min(bitmap.shape):  # nothing of it is deeper
        return bitmap, x0, y0
    inner = cv2.erode(
        bitmap,
        np.ones((3, 3), dtype=np.uint8),
        iterations=reach,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return bitmap - np.asarray(inner, dtype=np.uint8), x0, y0


def overlap(one: Crop, other: Crop) -> float:
    """The IoU of two bitmaps in one image; 0 where both are empty."""
    (a, ax, ay), (b, bx, by) = one, other
    x0, y0 = max(ax, bx), max(ay, by)
    x1, y1 = min(ax + a.shape[1], bx + b.shape[1]), min(ay + a.shape[0], by + b.shape[0])
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    if x1 <= x0 or y1 <= y0:
        return 0.0
    both = int(
        np.count_nonzero(a[y0 - ay : y1 - ay, x0 - ax : x1 - ax] & b[y0 - by : y1 - by, x0 - bx : x1 - bx])
    )
    return both / (total - both) if total > both else 0.0
