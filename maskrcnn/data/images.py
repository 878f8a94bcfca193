"""Image files to RGB arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.file_names import shown
from maskrcnn.data.image_files import open_image
from maskrcnn.data.image_header import TOO_LARGE, ImageHeader, check_size, parse_header
from maskrcnn.errors import DataError
from maskrcnn.structures.samples import Image

#: What becomes of 16 bits a channel: ``scale`` to 8 bits, or ``keep`` the precision as float32 in [0, 255].
SixteenBit: TypeAlias = Literal["scale", "keep"]


def read_image(
    path: Path,
    *,
    exif: bool = True,
    sixteen_bit: SixteenBit = "scale",
    check: Callable[[ImageHeader], None] | None = None,
) -> Image:
    """Decode an image file: [H, W, 3] RGB, uint8, or float32 in [0, 255] for kept 16-bit data.

    Gray becomes three equal channels, palettes are looked up, alpha is dropped.  Python opens the file, so
    that it may have any name (OpenCV takes no bytes that are not UTF-8).

    exif: turn the image as its EXIF orientation says.
    sixteen_bit: ``scale``: value / 257 rounded, so that 65535 becomes 255; ``keep``: value / 257 unrounded.
    check: called with what the file says of itself before its pixels take memory (not for formats whose
        header is not known here); what it raises passes.

    Raises:
        DataError: the file is missing, truncated, of no known format, of another number type, larger than
            OpenCV reads, or no file at all (a folder, a named pipe).
    """
    try:
        with open_image(path) as file:
            data = file.read()
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: there is no such image file") from None
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror or error}") from None
    except ValueError:  # a NUL, or half of a surrogate pair
        raise DataError(f"{shown(path)}: no file can have this name") from None
    header = None if check is None else parse_header(data)
    if check is not None and header is not None:
        check(header)
    try:
        return decode_image(data, exif=exif, sixteen_bit=sixteen_bit)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}") from None


def decode_image(data: bytes, *, exif: bool = True, sixteen_bit: SixteenBit = "scale") -> Image:
    """:func:`read_image` for the bytes of a file.

    Raises:
        DataError: as there, without the file's name.
    """
    if not data:
        raise DataError("the image file is empty")
    check_size(data)
    # OpenCV fills what a cut JPEG lacks with gray, without an error; so look for its end.
    if _is_truncated(data):
        raise DataError("the image file is truncated (its end marker is missing)")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if not exif:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):  # of a format whose header is not read here
            raise DataError(TOO_LARGE) from None
        raise DataError(f"the image cannot be decoded: {error.err}") from None
    if image is None:
        raise DataError("the image is damaged, truncated, or of a format that OpenCV does not read")
    rgb: npt.NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if rgb.dtype == np.uint8:
        return rgb
    if rgb.dtype != np.uint16:
        raise DataError(f"the image holds {rgb.dtype} values; store it with 8 or 16 bits a channel")
    if sixteen_bit == "keep":
        kept: Image = rgb.astype(np.float32) / np.float32(257)
        return kept
    # 65535 = 257 * 255; adding half of 257 rounds.
    scaled: Image = ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return scaled


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; other formats are left to their decoders."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data[-4096:] and b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    # Walk the JPEG's header segments (a thumbnail inside has an end marker too) to its first scan.
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False  # not a plain header: let the decoder judge
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA:  # start of scan
            return data.find(b"\xff\xd9", position) < 0
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
