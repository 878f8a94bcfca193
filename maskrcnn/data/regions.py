"""Images of any size, read a window at a time.

Never read whole are TIFFs of tiles or strips, OME-TIFF and BigTIFF among them (through tifffile, whose
segments are decoded one by one), and npy files (mapped into memory).  A file of another format, as PNG
or JPEG, is decoded once and kept, up to the size that OpenCV decodes.

A contrast by percentiles is that of the whole image: taken once, of windows spread over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maskrcnn.data.array_windows import Array, ArrayWindows
from maskrcnn.data.file_names import shown
from maskrcnn.data.image_files import open_image
from maskrcnn.data.image_header import MAX_PIXELS
from maskrcnn.data.images import SixteenBit, contrast_ends, read_image, stretched, to_values
from maskrcnn.data.interfaces import RGB, ImageReading
from maskrcnn.data.tiff_windows import TiffWindows
from maskrcnn.data.windows import Window, starts
from maskrcnn.errors import DataError
from maskrcnn.structures.samples import Image

#: What a file's first bytes are: TIFF and BigTIFF, of both byte orders; npy.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"
#: Windows along a side that percentiles are taken of, and their side.
_SAMPLES, _SAMPLED = 4, 512


@dataclass(frozen=True)
class Pixels:
    """An image as :func:`maskrcnn.data.images.read_image` gives it."""

    values: Image


class WindowSource(Protocol):
    """What windows are read of.

    size: (height, width).  ready: whether ``read`` gives values as the transforms take them.

    exact: whether those are to the bit what reading it whole gives; other decoders of JPEG round otherwise.
    """

    size: tuple[int, int]
    ready: bool
    exact: bool

    def read(self, window: Window) -> Array:
        """[h, w, C] of the file's type, a window inside the image."""
        ...

    def close(self) -> None:
        """Give the file back, where one is open."""
        ...


class Regions:
    """An image whose windows are read.

    size: (height, width) in pixels.
    """

    def __init__(self, source: WindowSource, sixteen_bit: SixteenBit, reading: ImageReading) -> None:
        self._source, self._sixteen_bit, self._reading = source, sixteen_bit, reading
        self.size = source.size
        self._ends: tuple[Any, Any] | None = None

    def read(self, window: Window) -> Pixels:
        """The window's pixels, [h, w, C].

        Raises:
            DataError: the file is damaged there.
        """
        values = self._source.read(window)
        if self._source.ready:
            return Pixels(np.ascontiguousarray(values))
        contrast = self._reading.contrast
        if contrast is None or values.dtype.kind not in "uif":
            return Pixels(to_values(values, self._sixteen_bit, contrast))
        if self._ends is None:
            self._ends = contrast_ends(self._sample(), contrast)
        return Pixels(stretched(values, *self._ends))

    def close(self) -> None:
        """Give the file back, where one is open."""
        self._source.close()

    def _sample(self) -> Array:
        """Pixels from all over the image: [1, n, C]."""
        height, width = self.size
        wide, tall = min(width, _SAMPLED), min(height, _SAMPLED)

        def along(length: int, side: int) -> list[int]:
            places = starts(length, side, 0.0)
            return places[:: max(1, len(places) // _SAMPLES)]

        windows = [Window(x, y, wide, tall) for y in along(height, tall) for x in along(width, wide)]
        parts = [self._source.read(window) for window in windows]
        return np.concatenate([p.reshape(1, -1, p.shape[2]) for p in parts], axis=1)


def open_regions(
    image: Path | Array | Pixels,
    *,
    sixteen_bit: SixteenBit = "scale",
    reading: ImageReading = RGB,
    page: int = 0,
) -> Regions:
    """An image file, an array [H, W], [H, W, C] or [C, H, W], or one as it was read, to be read by windows.

    Args:
        sixteen_bit, reading, page: as :func:`maskrcnn.data.images.read_image`.

    Raises:
        DataError: the file is missing, damaged, of other channels, or too large to be read whole and of no
            format that is read by windows.
    """
    if isinstance(image, Pixels):
        return Regions(ArrayWindows(image.values, reading, ready=True), sixteen_bit, reading)
    if isinstance(image, np.ndarray):
        return Regions(ArrayWindows(image, reading), sixteen_bit, reading)
    try:
        with open_image(image) as file:
            head = file.read(8)
    except FileNotFoundError:
        raise DataError(f"{shown(image)}: there is no such image file") from None
    except OSError as error:
        raise DataError(f"{shown(image)}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise DataError(f"{shown(image)}: no file can have this name") from None
    try:
        source = _source(image, head, reading, page)
    except DataError as error:
        raise DataError(f"{shown(image)}: {error}") from None
    if source is None:
        try:
            whole = read_image(image, sixteen_bit=sixteen_bit, reading=reading, page=page)
        except DataError as error:
            if "too large" in str(error):
                raise DataError(
                    f"{shown(image)}: this format is read whole, and that works up to {MAX_PIXELS:,} pixels;"
                    " store it as a tiled TIFF (tifffile, QuPath and vips write those), which is read by"
                    " windows"
                ) from None
            raise
        source = ArrayWindows(whole, reading, ready=True)
    return Regions(source, sixteen_bit, reading)


def open_windows(
    path: Path, *, sixteen_bit: SixteenBit, reading: ImageReading, page: int = 0
) -> Regions | None:
    """As :func:`open_regions`, of a file that is read by windows to the values that reading it whole gives;
    None for others, and where it cannot be opened.
    """
    try:
        with open_image(path) as file:
            head = file.read(8)
        source = None if reading.contrast is not None else _source(path, head, reading, page)
    except (OSError, ValueError, DataError):
        return None
    return Regions(source, sixteen_bit, reading) if source is not None and source.exact else None


def _source(path: Path, head: bytes, reading: ImageReading, page: int) -> WindowSource | None:
    """What reads the file by windows; None where it is to be read whole."""
    if head.startswith(_NPY):
        try:
            return ArrayWindows(np.load(path, mmap_mode="r", allow_pickle=False), reading)
        except (ValueError, EOFError, OSError, SyntaxError) as error:
            raise DataError(f"the npy file is damaged or holds no numbers ({str(error)[:200]})") from None
    if head[:4] not in _TIFF:
        return None
    try:
        import tifffile  # optional, and rarely needed
    except ImportError:
        return None
    try:
        source = TiffWindows(tifffile.TiffFile(path), reading, page)
    except DataError:
        raise
    except Exception as error:  # of a damaged file, tifffile raises what its parts do
        raise DataError(f"the TIFF cannot be read: {str(error)[:300]}") from None
    return source if source.by_windows else None
