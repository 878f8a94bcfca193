"""A label image of any size and any number of objects: a tiled TIFF of 32 bits, written tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from maskrcnn.picture_files import write_tiled_tiff
from maskrcnn.structures import rle

#: Side of a tile, pixels.
_SIDE = 512


def write_label_tiles(path: Path, codes: Sequence[rle.RLE | rle.TextRLE], size: tuple[int, int]) -> None:
    """The label image of ``rle.numbered`` as uint32: 0, and the pixels of code i have the number i + 1; where
    several lie over one another, the smallest's.

    Args:
        path: its folder is made.
        codes: of the image's ``size`` (height, width).

    Raises:
        OutputError: tifffile is missing, or it cannot be written; what was there before is as it was.
    """
    write_tiled_tiff(path, _tiles(codes, size), size, _SIDE)


def _tiles(codes: Sequence[rle.RLE | rle.TextRLE], size: tuple[int, int]) -> Iterator[npt.NDArray[np.uint32]]:
    """Row by row; each code is decoded once a row of tiles."""
    boxes = rle.boxes(cast(Any, codes)) if len(codes) else np.zeros((0, 4))
    areas = [rle.area(code) for code in codes]
    order = np.array(sorted(range(len(codes)), key=lambda i: -areas[i]), dtype=np.int64)
    ends = boxes[:, 1] + boxes[:, 3]
    for y in range(0, size[0], _SIDE):
        meeting = order[(boxes[order, 1] < y + _SIDE) & (ends[order] > y)]
        strip = np.zeros((_SIDE, -(-size[1] // _SIDE) * _SIDE), dtype=np.uint32)
        for i in meeting.tolist():
            bitmap, x0, y0 = rle.decode_crop(codes[i])
            part = bitmap[max(y - y0, 0) : y + _SIDE - y0]
            top = max(y0 - y, 0)
            strip[top : top + len(part), x0 : x0 + bitmap.shape[1]][part > 0] = i + 1
        for x in range(0, size[1], _SIDE):
            yield np.ascontiguousarray(strip[:, x : x + _SIDE])
