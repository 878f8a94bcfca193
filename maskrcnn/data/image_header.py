"""What an image file says of itself in its first bytes, before any of its pixels takes memory.

Read are PNG, JPEG, BMP, GIF and WebP; of other formats nothing is known here, and their decoder judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.image_files import open_image
from maskrcnn.errors import DataError, plural

#: Pixels of the largest image that is decoded: OpenCV's own limit (CV_IO_MAX_IMAGE_PIXELS).
MAX_PIXELS = 2**30
#: Pixels of a side that OpenCV's PNG decoder takes (libpng's user limit); others take fewer (JPEG: 65,535).
MAX_SIDE = 1_000_000
#: What to do about larger ones.
TOO_LARGE = (
    f"the image is too large, at most {MAX_PIXELS:,} pixels in all and {MAX_SIDE:,} a side can be read; cut"
    " it into tiles or scale it down, and its annotations with it"
)
# Pixels that one byte of a PNG or JPEG can stand for: deflate makes at most 1032 bytes of one (zlib's
# technical notes), of 8 pixels each in a picture of black and white; a JPEG spends more.  A file that says it
# has more pixels is damaged, or made to take memory.
_MAX_RATIO = 8300
# A PNG's size stands in its first 26 bytes, a JPEG's behind its EXIF and thumbnails (at most 64 KiB each).
_HEAD = 256 * 1024

_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's frame headers (ITU-T T.81, table B.1)
_PLAIN = {0x01, *range(0xD0, 0xD9)}  # markers without a length


@dataclass(frozen=True)
class ImageHeader:
    """Width and height of the pixels as stored, and the EXIF orientation (1 to 8; 1 where there is none)."""

    width: int
    height: int
    orientation: int = 1

    @property
    def turns(self) -> bool:
        """Whether the orientation exchanges width and height (EXIF 2.3, tag 274)."""
        return self.orientation >= 5

    def size(self, exif: bool) -> tuple[int, int]:
        """(height, width) of the image as it is read, with or without regard to its orientation."""
        return (self.width, self.height) if exif and self.turns else (self.height, self.width)


def read_header(path: Path) -> ImageHeader | None:
    """The header of a file; None where it cannot be read or is of a format that is not known here."""
    try:
        with open_image(path) as file:
            return parse_header(file.read(_HEAD))
    except (OSError, ValueError):
        return None


def parse_header(data: bytes) -> ImageHeader | None:
    """:func:`read_header` for the first bytes of a file."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        return ImageHeader(_big(data[16:20]), _big(data[20:24]), _png_orientation(data))
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"BM") and len(data) >= 26 and _little(data[14:18]) >= 40:
        height = int.from_bytes(data[22:26], "little", signed=True)  # negative: rows from the top
        return ImageHeader(_little(data[18:22]), abs(height))
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return ImageHeader(_little(data[6:8]), _little(data[8:10]))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp(data)
    return None


def check_size(data: bytes) -> None:
    """Refuse an image whose pixels cannot be decoded, or would take memory for nothing.

    Args:
        data: the whole file.

    Raises:
        DataError: it has more pixels than OpenCV decodes, or declares more than the file can hold.
    """
    header = parse_header(data)
    if header is None:
        return
    width, height = header.width, header.height
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DataError(f"{width} x {height} pixels: {TOO_LARGE}")
    compressed = data.startswith((b"\x89PNG", b"\xff\xd8"))
    if compressed and width * height > _MAX_RATIO * len(data):
        raise DataError(
            f"the image file says that it has {width} x {height} pixels, which its"
            f" {plural(len(data), 'byte')} cannot hold: it is damaged; restore it"
        )


def _jpeg(data: bytes) -> ImageHeader | None:
    position, orientation = 2, 1
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker in _PLAIN:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in _SOF:
            height, width = _big(data[position + 5 : position + 7]), _big(data[position + 7 : position + 9])
            return ImageHeader(width, height, orientation)
        end = position + 2 + _big(data[position + 2 : position + 4])
        segment = data[position + 4 : end]
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = _orientation(segment[6:])
        position = max(end, position + 2)
    return None


def _png_orientation(data: bytes) -> int:
    position = 8
    while position + 8 <= len(data):
        length, kind = _big(data[position : position + 4]), data[position + 4 : position + 8]
        if kind == b"eXIf":
            return _orientation(data[position + 8 : position + 8 + length])
        position += length + 12
    return 1


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        orientation = 1
        found = data.find(b"EXIF", 30)
        if data[20] & 0x08 and found >= 0:
            orientation = _orientation(data[found + 8 :].removeprefix(b"Exif\0\0"))
        return ImageHeader(_little(data[24:27]) + 1, _little(data[27:30]) + 1, orientation)
    if kind == b"VP8L":
        bits = _little(data[21:25])
        return ImageHeader((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return ImageHeader(_little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF)
    return None


def _orientation(tiff: bytes) -> int:
    """The orientation in the first directory of an EXIF block, 1 where it has none or is broken."""
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    order = _little if tiff[:2] == b"II" else _big
    start = order(tiff[4:8])
    for k in range(min(order(tiff[start : start + 2]), 512)):
        entry = tiff[start + 2 + 12 * k : start + 14 + 12 * k]
        if len(entry) == 12 and order(entry[:2]) == 0x0112:
            value = order(entry[8:10])
            return value if 1 <= value <= 8 else 1
    return 1


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
