"""Masks without what people take for mistakes: specks beside an object, pinholes in it (``eval.clean``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.structures.rle import TextRLE, as_text, decode_crop, encode_crop


class Cleaning(Protocol):
    """What is mended of pasted masks; ``eval.clean`` says what the values mean."""

    @property
    def parts(self) -> Literal["all", "largest"]: ...
    @property
    def smallest_part(self) -> int: ...
    @property
    def largest_hole(self) -> int: ...


def clean_masks(masks: Sequence[TextRLE], how: Cleaning) -> list[TextRLE]:
    """The masks with fewer parts and holes, each within its old outline; what is not to be changed is not."""
    return [_cleaned(mask, how) for mask in masks]


def _cleaned(mask: TextRLE, how: Cleaning) -> TextRLE:
    height, width = mask["size"]
    bitmap, x0, y0 = decode_crop({"size": [height, width], "counts": mask["counts"].encode()})
    if not bitmap.size:
        return mask
    out = without_specks(bitmap, how.smallest_part, largest=how.parts == "largest")
    out = without_holes(out, how.largest_hole) if how.largest_hole else out
    return mask if np.array_equal(out, bitmap) else as_text(encode_crop(out, x0, y0, height, width))


def without_specks(bitmap: npt.NDArray[np.uint8], smallest: int, *, largest: bool) -> npt.NDArray[np.uint8]:
    """Of a 0/1 bitmap [h, w] the parts of at least ``smallest`` pixels, or the ``largest`` alone.

    That one always stays; of equal ones the first from top to bottom, and from left to right in a row.
    Pixels that touch at a corner are of one part.
    """
    count, labels, facts, _ = cv2.connectedComponentsWithStats(bitmap, connectivity=8)
    if count <= 2:
        return bitmap
    areas = facts[1:, cv2.CC_STAT_AREA]
    keep = np.zeros(count, dtype=np.uint8)
    keep[1:] = areas >= (areas.max() + 1 if largest else smallest)
    best = 1 + np.flatnonzero(areas == areas.max())
    # OpenCV numbers parts in an order that it does not promise.
    keep[labels.flat[np.isin(labels, best).argmax()] if len(best) > 1 else best[0]] = 1
    out: npt.NDArray[np.uint8] = keep[labels]
    return out


def without_holes(bitmap: npt.NDArray[np.uint8], largest: int) -> npt.NDArray[np.uint8]:
    """A 0/1 bitmap [h, w] with its holes of at most ``largest`` pixels filled.

    A hole is ground that touches neither the bitmap's edge nor, by a side, ground that does.
    """
    ground = np.pad(1 - bitmap, 1, constant_values=1)
    count, labels, facts, _ = cv2.connectedComponentsWithStats(ground, connectivity=4)
    fill = np.zeros(count, dtype=np.uint8)
    fill[1:] = facts[1:, cv2.CC_STAT_AREA] <= largest
    fill[labels[0, 0]] = 0
    out: npt.NDArray[np.uint8] = bitmap | fill[labels][1:-1, 1:-1]
    return out
