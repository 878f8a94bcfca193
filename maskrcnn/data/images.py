"""Image files to arrays [H, W, C]: RGB, or any number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.config.registry import Named
from maskrcnn.data.file_names import shown
from maskrcnn.data.image_files import read_file
from maskrcnn.data.image_header import TOO_LARGE, ImageHeader, check_size, parse_header
from maskrcnn.data.interfaces import RGB, ContrastConfig, ImageReading
from maskrcnn.errors import DataError, plural
from maskrcnn.structures.samples import Image

#: What becomes of 16 bits a channel: ``scale`` to 8 bits, or ``keep`` the precision as float32 in [0, 255].
SixteenBit: TypeAlias = Literal["scale", "keep"]

#: Pixels of a channel from which percentiles are taken, evenly over it; more change them by very little.
_SAMPLED = 2**20


#: Decodes the formats that OpenCV does not, or not as they are: (bytes, reading, page) -> [H, W, C].
Decoder: TypeAlias = Callable[[bytes, ImageReading, int], npt.NDArray[Any]]
DECODERS: Named[Decoder] = Named("decoder", "maskrcnn.data", npy="arrays", tiff="arrays")


def read_image(
    path: Path,
    *,
    exif: bool = True,
    sixteen_bit: SixteenBit = "scale",
    check: Callable[[ImageHeader], None] | None = None,
    reading: ImageReading = RGB,
    page: int = 0,
) -> Image:
    """Decode an image file: [H, W, C], uint8, or float32 in [0, 255] for kept 16-bit data or with a contrast.

    Of three channels gray becomes three equal ones, palettes are looked up, alpha is dropped; of one channel
    colours become their gray; of any other number the file has just those.  Python opens the file, so that it
    may have any name (OpenCV takes no bytes that are not UTF-8).

    exif: turn the image as its EXIF orientation says.
    sixteen_bit: ``scale``: value / 257 rounded, so that 65535 becomes 255; ``keep``: value / 257 unrounded;
        with a contrast it has no effect.
    reading: the channels, and what becomes of pages and values.
    page: of a TIFF, with ``pages: images``.
    check: called with what the file says of itself before its pixels take memory (not for formats whose
        header is not known here); what it raises passes.

    A drive that does not answer is asked again, for about ten seconds.

    Raises:
        DataError: the file is missing, truncated, of no known format, of another number type or of channels,
            larger than OpenCV reads, or no file at all (a folder, a named pipe).
    """
    try:
        data = read_file(path)
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
        return decode_image(data, exif=exif, sixteen_bit=sixteen_bit, reading=reading, page=page)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}") from None


def decode_image(
    data: bytes,
    *,
    exif: bool = True,
    sixteen_bit: SixteenBit = "scale",
    reading: ImageReading = RGB,
    page: int = 0,
) -> Image:
    """:func:`read_image` for the bytes of a file.

    Raises:
        DataError: as there, without the file's name.
    """
    if not data:
        raise DataError("the image file is empty")
    if decoder := _decoder(data, reading):
        return to_values(DECODERS.get(decoder)(data, reading, page), sixteen_bit, reading.contrast)
    check_size(data)
    # OpenCV fills what a cut JPEG lacks with gray, without an error; so look for its end.
    if _is_truncated(data):
        raise DataError("the image file is truncated (its end marker is missing)")
    kinds = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
    flags = kinds.get(reading.channels, cv2.IMREAD_UNCHANGED)
    if not exif and reading.channels in kinds:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):  # of a format whose header is not read here
            raise DataError(TOO_LARGE) from None
        raise DataError(f"the image cannot be decoded: {error.err}") from None
    if image is None:
        raise DataError("the image is damaged, truncated, or of a format that OpenCV does not read")
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] != reading.channels:
        raise DataError(wrong_channels(image.shape[2], reading))
    if image.shape[2] >= 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    header = parse_header(data)
    if exif and header is not None and reading.channels not in kinds:  # which OpenCV turns by itself
        image = np.ascontiguousarray(_upright(image, header.orientation))
    return to_values(image, sixteen_bit, reading.contrast)


def _upright(image: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """As EXIF's orientation (1 to 8) says: 5 to 8 lie on their side, the even of the others are mirrored."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return image[::rows, ::columns]


def _decoder(data: bytes, reading: ImageReading) -> str:
    """Which of :data:`DECODERS` a file needs; empty: none, OpenCV reads it."""
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return "tiff" if tiff and (reading.channels not in (1, 3) or reading.pages != "first") else ""


def to_values(image: npt.NDArray[Any], sixteen_bit: SixteenBit, contrast: ContrastConfig | None) -> Image:
    """What a file holds, [H, W, C], as the transforms take it: uint8, or float32 in [0, 255].

    Raises:
        DataError: its values need a contrast, and there is none.
    """
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * np.uint8(255)
    if contrast is not None and image.dtype.kind in "uif":
        return stretch(image, contrast)
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise DataError(
            f"the image holds {image.dtype} values; store it with 8 or 16 bits a channel, or say by"
            " data.contrast which of them are black and white: {percentiles: [1, 99.8]}, or {range: [0, 1]}"
        )
    if sixteen_bit == "keep":
        kept: Image = image.astype(np.float32) / np.float32(257)
        return kept
    # 65535 = 257 * 255; adding half of 257 rounds.
    scaled: Image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return scaled


def stretch(image: npt.NDArray[Any], contrast: ContrastConfig) -> Image:
    """[H, W, C] of any real type -> float32 [H, W, C] in [0, 255]; an image of one value becomes 0."""
    return stretched(image, *contrast_ends(image, contrast))


def contrast_ends(image: npt.NDArray[Any], contrast: ContrastConfig) -> tuple[Any, Any]:
    """The values of an image [H, W, C] that are to become 0 and 255: one each, or one a channel."""
    if contrast.range is not None:
        return np.float64(contrast.range[0]), np.float64(contrast.range[1])
    together = contrast.over == "image"
    values = image.reshape(-1, 1 if together else image.shape[2])
    step = max(1, len(values) // _SAMPLED)
    while together and math.gcd(step, image.shape[2]) > 1:  # which would leave channels out
        step += 1
    sample = values[::step]
    if not np.issubdtype(image.dtype, np.integer):
        sample = np.where(np.isfinite(sample), sample, np.nan)
        sample = np.where(np.isnan(sample).all(0), 0.0, sample)
    low, high = np.nanpercentile(sample, contrast.percentiles, axis=0)
    return low, high


def stretched(image: npt.NDArray[Any], low: Any, high: Any) -> Image:
    """[H, W, C] of any real type -> float32 [H, W, C]: ``low`` becomes 0, ``high`` 255."""
    scale = 255 / np.where(high > low, high - low, np.inf)
    exact = image.dtype.itemsize <= 2 or image.dtype == np.float32  # else float32 would round first
    kind = np.float32 if exact else np.float64
    out = (image.astype(kind) - np.asarray(low, kind)) * np.asarray(scale, kind)
    out = np.clip(np.nan_to_num(out, copy=False, posinf=255, neginf=0), 0, 255)
    return np.asarray(out, dtype=np.float32)


def wrong_channels(found: int, reading: ImageReading) -> str:
    """What to do about a file of ``found`` channels where others are read."""
    return (
        f"the image has {plural(found, 'channel')}, and data.channels is {reading.channels}; set"
        f" data.channels to {found}, or store {plural(reading.channels, 'channel')} (TIFF and npy hold any"
        " number; data.pages: channels takes a TIFF's pages for channels)"
    )


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
