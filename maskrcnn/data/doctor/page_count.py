"""How many pictures an image file holds, told from its structure without decoding; the first is read.

Nothing here raises: a file that is damaged or cut counts as one picture, and its decoder says what is wrong.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from maskrcnn.data.image_files import open_image

#: Counting stops here.
MOST_PAGES = 10_000
#: Kinds of files that can hold several, by the ends of their names; the others are never opened.
SUFFIXES = frozenset({".png", ".apng", ".gif", ".webp", ".tif", ".tiff"})
#: Bits of TIFF's NewSubfileType (TIFF 6.0, section 8): a smaller copy of another page; a mask for one.
_COPY_OR_MASK = 0b101


def count_pages(path: Path) -> int:
    """Frames or pages of a PNG, GIF, WebP or TIFF file; 1 for all others.

    Smaller copies of a page (pyramids, thumbnails) and masks in a TIFF are not counted.
    """
    if path.suffix.lower() not in SUFFIXES:
        return 1
    try:
        with open_image(path) as file:
            head = file.read(16)
            file.seek(0)
            if head.startswith(b"\x89PNG"):
                return max(_png(file), 1)
            if head.startswith(b"GIF8"):
                return max(_gif(file), 1)
            if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
                return max(_webp(file), 1)
            if head[:2] in (b"II", b"MM"):
                return max(_tiff(file), 1)
    except (OSError, ValueError, struct.error, IndexError, OverflowError):
        pass
    return 1


def _png(file: BinaryIO) -> int:
    """The chunk acTL, which comes before the image data, says how many."""
    file.seek(8)
    for _ in range(MOST_PAGES):
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"acTL":
            return min(int(struct.unpack(">I", file.read(4))[0]), MOST_PAGES)
        if kind in (b"IDAT", b"IEND"):
            break
        file.seek(length + 4, 1)
    return 1


def _gif(file: BinaryIO) -> int:
    """One image descriptor (0x2C) a frame."""
    packed = file.read(13)[10]
    file.seek(_colours(packed), 1)
    frames = 0
    while frames < MOST_PAGES:
        kind = file.read(1)
        if kind == b"\x21":  # an extension: its label, then blocks
            file.seek(1, 1)
        elif kind == b"\x2c":
            frames += 1
            file.seek(_colours(file.read(9)[8]) + 1, 1)  # the code size stands before the blocks
        else:
            break
        while (length := file.read(1)) not in (b"\0", b""):
            file.seek(length[0], 1)
    return frames


def _colours(packed: int) -> int:
    """Bytes of the colour table that the flags announce."""
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _webp(file: BinaryIO) -> int:
    """One chunk ANMF a frame."""
    file.seek(12)
    frames = 0
    while frames < MOST_PAGES and len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        frames += kind == b"ANMF"
        file.seek(length + length % 2, 1)
    return frames


def _tiff(file: BinaryIO) -> int:
    """One directory a page, each with the place of the next; BigTIFF (43) as well."""
    order, version = ("<" if file.read(2) == b"II" else ">"), file.read(2)
    big = struct.unpack(f"{order}H", version)[0] == 43
    entry, place, count = (20, f"{order}Q", f"{order}Q") if big else (12, f"{order}I", f"{order}H")
    if big:
        file.seek(8)
    pages, seen = 0, set[int]()
    at = struct.unpack(place, file.read(struct.calcsize(place)))[0]
    while at and at not in seen and len(seen) < MOST_PAGES:
        seen.add(at)
        file.seek(at)
        entries = struct.unpack(count, file.read(struct.calcsize(count)))[0]
        body = file.read(min(entries, 4096) * entry)
        pages += not any(
            tag == 254 and value & _COPY_OR_MASK
            for tag, value in (_short(body, k, order, big) for k in range(0, len(body), entry))
        )
        at = struct.unpack(place, file.read(struct.calcsize(place)))[0]
    return pages


def _short(body: bytes, at: int, order: str, big: bool) -> tuple[int, int]:
    """Tag and value of a directory's entry, whose value is a 32-bit number."""
    return (
        struct.unpack_from(f"{order}H", body, at)[0],
        struct.unpack_from(f"{order}I", body, at + (12 if big else 8))[0],
    )
