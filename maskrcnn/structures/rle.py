"""COCO's run-length codes, and the drawing of polygons, over pycocotools.

A run-length code counts pixels down the columns, background first.  ``counts`` is the compressed text of
pycocotools as bytes (6 bits a character, differences to the run before the last).
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as _coco

from maskrcnn.layers.ops import areas_of_codes

#: ``size`` [height, width] in pixels and compressed ``counts`` as bytes.
RLE = dict[str, Any]


class TextRLE(TypedDict):
    """An :data:`RLE` as json has it: ``size`` [height, width] in pixels, ``counts`` as ASCII text."""

    size: list[int]
    counts: str


Runs = npt.NDArray[np.int64]

#: Images from so many pixels on have no run-length masks: COCO's native code counts in 32 bits.
MOST_PIXELS = 1 << 31
#: A number below 2^31 and its sign take at most so many characters.
_MOST_CHARACTERS = 7
#: How much text :func:`areas` looks at in one go; bounds its scratch memory, and stays in the cache.
_CHARACTERS_AT_ONCE = 1 << 18


def normalise(entry: Mapping[str, Any], height: int, width: int) -> RLE:
    """A checked, compressed RLE from any of COCO's forms; what it gives is safe for native code.

    Counts that are the text of Python bytes (``"b'abc'"``, what ``str()`` makes of them) are read as meant,
    and so are whole numbers written as floats.  Runs around one of nothing are joined: the mask is the same,
    but COCO's native code would take that one into its box.

    Raises:
        ValueError: keys missing, another size than the image's, or runs that do not fill it.
    """
    if "counts" not in entry or "size" not in entry:
        raise ValueError("an RLE needs the keys 'size' and 'counts'")
    size = entry["size"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(_size_trouble(size, height, width))
    total = height * width
    if total >= MOST_PIXELS:
        raise ValueError(f"its image has {total} pixels; a run-length mask holds less than {MOST_PIXELS}")
    counts = entry["counts"]
    if isinstance(counts, list):
        counts = [int(c) if type(c) is float and c.is_integer() else c for c in counts]
        if any(type(c) is not int or c < 0 for c in counts):
            raise ValueError("its RLE counts are not all integers >= 0")
        if sum(counts) != total:
            raise ValueError(f"its RLE covers {shown(sum(counts))} pixels, the image has {total}")
        return _compressed(np.array(counts, dtype=np.int64), height, width)
    if isinstance(counts, str):
        counts = text_of_bytes(counts)
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError("its compressed RLE holds characters that the format does not have") from None
    if not isinstance(counts, bytes):
        raise ValueError(f"its RLE counts are a {type(counts).__name__}, not a list or a text")
    lengths = runs(counts, total)
    if (lengths < 0).any() or int(lengths.sum()) != total:
        raise ValueError(f"its compressed RLE is damaged: it covers {int(lengths.sum())} of {total} pixels")
    if (lengths[1:] == 0).any():
        return _compressed(lengths, height, width)
    return {"size": [height, width], "counts": counts}


def _compressed(lengths: Runs, height: int, width: int) -> RLE:
    """The code of runs that fill the image, those of nothing joined with their neighbours."""
    return _from_changes([odd_positions(np.cumsum(lengths)[:-1])], height, width)[0]


def text_of_bytes(counts: str) -> str:
    """``"b'abc'"``, Python's way to print bytes, as ``"abc"``; any other text as it is."""
    if counts[:2] not in ("b'", 'b"') or counts[-1] != counts[1] or len(counts) < 3:
        return counts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that Python does not have stay as they are
            value = ast.literal_eval(counts)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return counts
    return value.decode("latin-1") if isinstance(value, bytes) else counts


def shown(number: int) -> str:
    """A number for a message, however large."""
    return str(number) if abs(number) < 10**18 else "more than 10^18"


def _size_trouble(size: Any, height: int, width: int) -> str:
    image = f"the image [{height}, {width}] (height, width)"
    if height != width and isinstance(size, list | tuple) and list(size) == [width, height]:
        return f"its RLE has size {list(size)}, {image}: they are exchanged, write [height, width]"
    return f"its RLE has size {str(size)[:60]}, {image}"


def runs(counts: bytes | str, total: int = MOST_PIXELS) -> Runs:
    """The run lengths that a compressed ``counts`` holds: int64 [n].

    total: pixels of the image; no number may be larger, so that nothing overflows.

    Raises:
        ValueError: characters outside the code, or a number cut short or too large.
    """
    if not counts:
        return np.zeros(0, dtype=np.int64)
    chars = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, dtype=np.uint8)
    ends = _ends(chars)
    values = _values(chars, ends, total)
    # From the fourth on, a number is the difference to the run two before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def areas(counts: Sequence[bytes] | Sequence[str], totals: Runs) -> Runs | None:
    """The mask pixels of many codes: int64 [n]; None where one does not fill its image with runs >= 0.

    What :func:`normalise` checks one by one, in bounded memory and some 10 ns a character, or few by the
    compiled operator where it was built before.

    totals: int64 [n], pixels of the image of each.
    """
    sizes = np.array(list(map(len, counts)), dtype=np.int64)
    if not sizes.all() or (totals >= MOST_PIXELS).any():
        return None
    if not len(sizes):
        return np.zeros(0, dtype=np.int64)
    # Parts of whole codes, of about so many characters each.
    parts = np.unique((np.cumsum(sizes) - 1) // _CHARACTERS_AT_ONCE, return_index=True)[1].tolist()

    operator = areas_of_codes()

    def measure(first: int, last: int) -> Runs | None:
        chars = _joined(counts[first:last])
        if not len(chars):
            return None
        if operator is None:
            return _areas_of_part(chars, sizes[first:last], totals[first:last])
        found = operator(*map(torch.from_numpy, (chars, sizes[first:last], totals[first:last])))
        return None if (found < 0).any() else found.numpy()

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:  # numpy works outside the lock
        found = list(pool.map(measure, parts, [*parts[1:], len(sizes)]))
    sound = [part for part in found if part is not None]
    return np.concatenate(sound) if len(sound) == len(found) else None


def _joined(counts: Sequence[Any]) -> npt.NDArray[np.uint8]:
    """All of one kind as one; empty where characters are not even ASCII."""
    try:
        text = b"".join(counts) if isinstance(counts[0], bytes) else "".join(counts).encode("ascii")
    except UnicodeEncodeError:
        text = b""
    return np.frombuffer(bytearray(text), dtype=np.uint8)  # writable, as torch wants it


def _areas_of_part(chars: npt.NDArray[np.uint8], sizes: Runs, totals: Runs) -> Runs | None:
    try:
        ends = _ends(chars)
        values = _values(chars, ends, int(totals.max()))
    except ValueError:
        return None
    # Where each code's numbers begin and end: none may be cut short by the end of its code.
    last = np.cumsum(sizes) - 1
    stops = np.searchsorted(ends, last) + 1
    if (ends[stops - 1] != last).any():
        return None
    starts = np.concatenate(([0], stops[:-1]))
    # From the fourth of a code on, a number is the difference to the run two before: running sums of every
    # other number, less what the sum was where the code's own begins.  Its first number stands alone.
    lengths = np.empty_like(values)
    for half in (0, 1):
        sums = np.cumsum(values[half::2])
        opening = (starts + 2 - half) // 2  # the code's first number of this half but for its very first
        before = np.concatenate(([0], sums))[np.minimum(opening, len(sums))]
        counts = (stops + 1 - half) // 2 - (starts + 1 - half) // 2
        lengths[half::2] = sums - np.repeat(before, counts)
    lengths[starts] = values[starts]
    if lengths.min() < 0 or (np.add.reduceat(lengths, starts) != totals).any():
        return None
    # Background less mask, from the runs with alternating signs; a code may begin at an odd place.
    lengths[1::2] *= -1
    surplus: Runs = np.add.reduceat(lengths, starts) * (1 - 2 * (starts & 1))
    found: Runs = (totals - surplus) // 2
    return found


def _ends(chars: npt.NDArray[np.uint8]) -> Runs:
    """Places of the last character of each number."""
    if chars.min() < 48 or chars.max() > 111:
        raise ValueError("its compressed RLE holds characters that the format does not have")
    ends = np.flatnonzero(chars - 48 < 32)
    if not len(ends) or ends[-1] != len(chars) - 1:
        raise ValueError("its compressed RLE is cut short")
    return ends


def _values(chars: npt.NDArray[np.uint8], ends: Runs, total: int) -> Runs:
    """The signed numbers that end at ``ends``: 5 bits a character, the lowest first."""
    lengths = np.diff(ends, prepend=-1)
    longest = int(lengths.max())
    if longest > _MOST_CHARACTERS:
        raise ValueError("its compressed RLE holds a number too large")
    digits = (chars - 48) & 0x1F
    values = digits[ends].astype(np.int64)
    values -= (values & 0x10) << 1  # the sign, in the last character
    for k in range(1, longest):  # the characters before, from the last to the first
        mine = np.flatnonzero(lengths > k)
        values[mine] = (values[mine] << 5) | digits[ends[mine] - k]
    if np.abs(values).max() > total:
        raise ValueError("its compressed RLE holds a number larger than its image")
    return values


def area(entry: RLE | TextRLE) -> int:
    """Number of mask pixels."""
    return int(runs(entry["counts"])[1::2].sum())


def box(entry: RLE) -> tuple[float, float, float, float]:
    """x, y, width, height of the mask's pixels; zeros where it has none."""
    x, y, width, height = _coco.toBbox([entry])[0].tolist()
    return x, y, width, height


def boxes(entries: Sequence[RLE]) -> npt.NDArray[np.float64]:
    """:func:`box` of each: float64 [n, 4]."""
    found: npt.NDArray[np.float64] = _coco.toBbox(list(entries)).reshape(-1, 4)
    return found


def decode_crop(entry: RLE | TextRLE, margin: int = 0) -> tuple[npt.NDArray[np.uint8], int, int]:
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


def decode(entry: RLE | TextRLE) -> npt.NDArray[np.uint8]:
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


def numbered(entries: Sequence[RLE | TextRLE], height: int, width: int) -> npt.NDArray[Any]:
    """A label image [height, width]: 0, and the pixels of code i have the number i + 1.

    Where several lie over one another, the smallest's (fewest pixels).  uint16, and uint32 for more than
    65,535 codes.
    """
    image = np.zeros((height, width), dtype=np.uint16 if len(entries) < 1 << 16 else np.uint32)
    sizes = [area(entry) for entry in entries]
    for i in sorted(range(len(entries)), key=lambda i: -sizes[i]):
        bitmap, x0, y0 = decode_crop(entries[i])
        h, w = bitmap.shape
        image[y0 : y0 + h, x0 : x0 + w][bitmap > 0] = i + 1
    return image


def encode_crop(bitmap: npt.NDArray[np.uint8], x0: int, y0: int, height: int, width: int) -> RLE:
    """The code of an image of ``height`` x ``width``, 0 but for a 0/1 ``bitmap`` [h, w] at (x0, y0).

    The inverse of :func:`decode_crop`; only the bitmap's own pixels are ever looked at.
    """
    return _from_changes([window_changes(bitmap, x0, y0, height)], height, width)[0]


def draw_polygons(polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> list[RLE]:
    """One code a flat polygon ``[x1, y1, ...]``, drawn as COCO's own tools draw it."""
    # pycocotools would take four numbers for a box; a point more draws the same line.
    long = [p if len(p) > 4 else np.concatenate((p, p[-2:])) for p in polygons]
    codes: list[RLE] = _coco.frPyObjects(long, height, width) if long else []
    return codes


def union(entries: Sequence[RLE], height: int, width: int) -> RLE:
    """The union of codes of one size; of none, the empty mask."""
    if not entries:
        return encode(np.zeros((height, width), dtype=np.uint8))
    code: RLE = entries[0] if len(entries) == 1 else _coco.merge(list(entries))
    return code


def exclusive_union(entries: Sequence[RLE], height: int, width: int) -> RLE:
    """Of codes of one size, the pixels that an odd number of them have: parts and their holes, say."""
    changes = [np.cumsum(runs(entry["counts"]))[:-1] for entry in entries]
    every = np.concatenate(changes) if changes else np.zeros(0, dtype=np.int64)
    return _from_changes([odd_positions(every)], height, width)[0]


def from_polygons(polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> RLE:
    """The union of flat polygons, each [2 n], as one code."""
    return union(draw_polygons(polygons, height, width), height, width)


def odd_positions(positions: Runs) -> Runs:
    """The positions at which the value really changes: sorted, those listed an even number of times dropped.

    Each entry of ``positions`` [P] toggles the value there, so two at one place cancel (the end of a run
    at the foot of a column and the start of the next at the head of the following column, for example).
    """
    if not len(positions):
        return positions
    unique, times = np.unique(positions, return_counts=True)
    return np.asarray(unique[times % 2 == 1], dtype=np.int64)


def encode_changes(changes: Sequence[Runs], height: int, width: int) -> list[TextRLE]:
    """RLEs of D masks from the flat column-major positions [P] at which each toggles, ascending.

    A position of ``height * width`` (the end) may be listed or left out; runs of nothing are not written.
    """
    return [as_text(rle) for rle in _from_changes(changes, height, width)]


def _from_changes(changes: Sequence[Runs], height: int, width: int) -> list[RLE]:
    total = height * width
    inside = [places[:-1] if len(places) and places[-1] == total else places for places in changes]
    counts = [np.diff(places, prepend=0, append=total) for places in inside]
    plain = [{"size": [height, width], "counts": c} for c in counts]
    codes: list[RLE] = _coco.frPyObjects(plain, height, width) if plain else []
    return codes


def window_changes(window: npt.NDArray[Any], x0: int, y0: int, height: int) -> Runs:
    """Toggle positions of a mask that is the 0/1 ``window`` [h, w] at pixel (``x0``, ``y0``), 0 elsewhere.

    The window must lie inside an image of ``height`` rows.
    """
    h, w = window.shape
    columns = np.zeros((w, h + 1), dtype=np.int8)
    columns[:, :h] = window.T
    flat = np.flatnonzero(np.diff(columns.reshape(-1), prepend=np.int8(0)))
    column, row = np.divmod(flat, h + 1)
    return odd_positions((x0 + column) * height + y0 + row)


def as_text(rle: dict[str, Any]) -> TextRLE:
    """A pycocotools RLE with ``counts`` as text, as JSON needs it."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return TextRLE(size=[int(side) for side in rle["size"]], counts=text)
