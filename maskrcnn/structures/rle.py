"""COCO's run-length codes, and the drawing of polygons, over pycocotools.

A run-length code counts pixels down the columns, background first.  ``counts`` is the compressed text of
pycocotools as bytes (6 bits a character, differences to the run before the last).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import _mask as _coco

RLE = dict[str, Any]
Runs = npt.NDArray[np.int64]


def normalise(entry: dict[str, Any], height: int, width: int) -> RLE:
    """A checked, compressed RLE from any of COCO's forms.

    Raises:
        ValueError: keys missing, another size than the image's, or runs that do not fill it.
    """
    if "counts" not in entry or "size" not in entry:
        raise ValueError("an RLE needs the keys 'size' and 'counts'")
    size = list(entry["size"]) if isinstance(entry["size"], (list, tuple)) else entry["size"]
    if size != [height, width]:
        raise ValueError(f"its RLE has size {size}, the image [{height}, {width}] (height, width)")
    counts = entry["counts"]
    if isinstance(counts, list):
        if any(type(c) is not int or c < 0 for c in counts):
            raise ValueError("its RLE counts are not all integers >= 0")
        if sum(counts) != height * width:
            raise ValueError(f"its RLE covers {sum(counts)} pixels, the image has {height * width}")
        compressed: RLE = _coco.frUncompressedRLE([{"size": size, "counts": counts}], height, width)[0]
        return {"size": size, "counts": compressed["counts"]}
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError("its compressed RLE holds characters that the format does not have") from None
    if not isinstance(counts, bytes):
        raise ValueError(f"its RLE counts are a {type(counts).__name__}, not a list or a text")
    lengths = runs(counts)
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError(
            f"its compressed RLE is damaged: it covers {int(lengths.sum())} of {height * width} pixels"
        )
    return {"size": size, "counts": counts}


def runs(counts: bytes) -> Runs:
    """The run lengths that a compressed ``counts`` holds: int64 [n].

    Raises:
        ValueError: characters outside the code, or a number cut short.
    """
    if not counts:
        return np.zeros(0, dtype=np.int64)
    chars = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if chars.min() < 0 or chars.max() > 63:
        raise ValueError("its compressed RLE holds characters that the format does not have")
    last = (chars & 0x20) == 0
    if not last[-1]:
        raise ValueError("its compressed RLE is cut short")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(chars)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 11:
        raise ValueError("its compressed RLE holds a number too large")
    values = np.add.reduceat((chars & 0x1F) << (5 * place), starts)
    negative = (chars[ends] & 0x10) != 0
    values[negative] -= np.int64(1) << (5 * (ends - starts + 1)[negative])
    # From the fourth on, a number is the difference to the run two before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def area(entry: RLE) -> int:
    """Number of mask pixels."""
    return int(runs(entry["counts"])[1::2].sum())


def decode_crop(entry: RLE, margin: int = 0) -> tuple[npt.NDArray[np.uint8], int, int]:
    """The bitmap around the mask's box, and the corner (x0, y0) of that crop in the image.

    ``margin`` pixels are kept around the box where the image has them.  Only the columns of the box are
    ever expanded.  An empty mask gives a [0, 0] bitmap.
    """
    height, width = entry["size"]
    lengths = runs(entry["counts"])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    first, last = starts[1::2][lengths[1::2] > 0], ends[1::2][lengths[1::2] > 0]
    if not len(first):
        return np.zeros((0, 0), dtype=np.uint8), 0, 0
    x0 = max(int(first[0]) // height - margin, 0)
    x1 = min((int(last[-1]) - 1) // height + 1 + margin, width)
    base = x0 * height
    clipped = np.clip(ends, base, x1 * height)
    values = np.arange(len(lengths)) % 2
    flat = np.repeat(values.astype(np.uint8), np.diff(clipped, prepend=base))
    strip = flat.reshape(x1 - x0, height).T
    rows = np.flatnonzero(strip.any(1))
    y0, y1 = max(int(rows[0]) - margin, 0), min(int(rows[-1]) + 1 + margin, height)
    return np.ascontiguousarray(strip[y0:y1]), x0, y0


def decode(entry: RLE) -> npt.NDArray[np.uint8]:
    """The whole bitmap, uint8 0/1 [height, width]."""
    bitmap: npt.NDArray[np.uint8] = _coco.decode([entry])[:, :, 0]
    return bitmap


def decode_many(entries: Sequence[RLE]) -> npt.NDArray[np.uint8]:
    """Bitmaps of equally large codes: uint8 0/1 [n, height, width]."""
    bitmaps: npt.NDArray[np.uint8] = _coco.decode(list(entries)).transpose(2, 0, 1)
    return bitmaps


def encode(bitmap: npt.NDArray[np.uint8]) -> RLE:
    """The code of a 0/1 bitmap [height, width]."""
    code: RLE = _coco.encode(np.asfortranarray(bitmap)[:, :, None])[0]
    return code


def encode_crop(bitmap: npt.NDArray[np.uint8], x0: int, y0: int, height: int, width: int) -> RLE:
    """The code of an image of ``height`` x ``width`` that is 0 but for a 0/1 ``bitmap`` at (x0, y0).

    The inverse of :func:`decode_crop`; only the bitmap's own pixels are ever looked at.
    """
    rows, columns = bitmap.shape
    padded = np.zeros((columns, rows + 2), dtype=np.int8)
    padded[:, 1:-1] = bitmap.T
    column, row = np.nonzero(np.diff(padded, axis=1))  # starts and ends of runs, in turn
    places = (x0 + column) * height + y0 + row
    # A run down to the lower edge goes on at the top of the next column.
    joined = np.flatnonzero(places[1:-1:2] == places[2::2])
    places = np.delete(places, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    lengths = np.diff(places, prepend=0, append=height * width).tolist()
    # A mask that holds the last pixel has no background behind it.
    entry = {"size": [height, width], "counts": lengths if lengths[-1] else lengths[:-1]}
    code: RLE = _coco.frUncompressedRLE([entry], height, width)[0]
    return code


def draw_polygons(polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> list[RLE]:
    """One code a flat polygon ``[x1, y1, ...]``, drawn as COCO's own tools draw it."""
    # frPyObjects would take a list of 4 numbers for a box; this entry does not.
    codes: list[RLE] = _coco.frPoly(list(polygons), height, width)
    return codes


def union(entries: Sequence[RLE], height: int, width: int) -> RLE:
    """The union of codes of one size; of none, the empty mask."""
    if not entries:
        return encode(np.zeros((height, width), dtype=np.uint8))
    code: RLE = entries[0] if len(entries) == 1 else _coco.merge(list(entries))
    return code


def from_polygons(polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> RLE:
    """The union of flat polygons as one code."""
    return union(draw_polygons(polygons, height, width) if polygons else [], height, width)
