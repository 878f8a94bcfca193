"""Masks moved and scaled from the boxes that were predicted to those of the objects."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from maskrcnn.evaluation.report.boundary import Crop, overlap
from maskrcnn.evaluation.report.overlaps import Floats, Integers, Overlaps
from maskrcnn.structures import rle


def iou_in_true_boxes(
    found: Overlaps, masks: Sequence[rle.RLE], boxes: Floats | None, which: Integers
) -> Floats:
    """float64 [n]: the mask IoU of some pairs, had each detection the box of its object and its mask filled
    that as it fills its own.

    Args:
        found: of masks.  masks: those of the detections in the order that was read (``Overlaps.row``).
        boxes: float64 [.., 4], x, y, width, height in the same order; None: those around the masks.
        which: int64 [n], places among the pairs.
    """
    truth, out = found.truth, np.zeros(len(which))
    for n, (place, wanted) in enumerate(
        zip(found.pairs.found[which].tolist(), found.pairs.wanted[which].tolist(), strict=True)
    ):
        row, annotation = int(found.row[place]), int(found.annotation[wanted])
        size = truth.sizes[truth.images[annotation]].tolist()
        mask = _bytes(masks[row])
        box = rle.box(mask) if boxes is None else boxes[row]
        moved = move(rle.decode_crop(mask), box, truth.boxes[annotation], (size[0], size[1]))
        out[n] = overlap(moved, rle.decode_crop(_bytes({"size": size, "counts": truth.mask(annotation)})))
    return out


def move(crop: Crop, box: Sequence[float], to: Sequence[float], size: tuple[int, int]) -> Crop:
    """A mask whose ``box`` comes to lie on ``to``, both x, y, width, height; cut to the image.

    A pixel belongs to it where the point that its centre comes from does.

    size: (height, width) of the image.
    """
    bitmap, *corner = crop
    if not bitmap.size or min(box[2], box[3]) <= 0:
        return np.zeros((0, 0), dtype=np.uint8), 0, 0
    begins, sources = [], []
    for k in (0, 1):
        length, scale = bitmap.shape[1 - k], to[2 + k] / box[2 + k]
        low = (corner[k] - box[k]) * scale + to[k]
        begins.append(max(ceil(low - 0.5), 0))
        pixels = np.arange(begins[k], min(ceil(low + length * scale - 0.5), size[1 - k]))
        source = np.floor((pixels + 0.5 - to[k]) / scale + box[k] - corner[k]).astype(np.int64)
        sources.append(np.clip(source, 0, length - 1))
    columns, rows = sources
    return bitmap[np.ix_(rows, columns)], begins[0], begins[1]


def _bytes(code: rle.RLE) -> rle.RLE:
    counts = code["counts"]
    return {"size": code["size"], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
