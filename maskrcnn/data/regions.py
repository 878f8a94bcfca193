"""Images of any size, read a window at a time.

Never read whole are TIFFs of tiles or strips, OME-TIFF and BigTIFF among them (through tifffile, whose
segments are decoded one by one), and npy files (mapped into memory).  A file of another format, as PNG
or JPEG, is decoded once and kept, up to the size that OpenCV decodes.

A contrast by percentiles is that of the whole image: taken once, of windows spread over it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.file_names import shown
from maskrcnn.data.image_files import open_image
from maskrcnn.data.image_header import MAX_PIXELS
from maskrcnn.data.images import SixteenBit, contrast_ends, read_image, stretched, to_values, wrong_channels
from maskrcnn.data.interfaces import RGB, ImageReading
from maskrcnn.data.windows import Window, starts
from maskrcnn.errors import DataError
from maskrcnn.structures.samples import Image

Array = npt.NDArray[Any]
#: What a file's first bytes are: TIFF and BigTIFF, of both byte orders; npy.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"
#: Bytes of decoded segments that are kept for the next windows.
_KEPT = 256 << 20
#: Windows along a side that percentiles are taken of, and their side.
_SAMPLES, _SAMPLED = 4, 512
#: White is 0, black is 0, RGB, YCbCr (TIFF 6.0, tag 262): others mean something that OpenCV knows.
_READ = (0, 1, 2, 6)
#: JPEG, old and new, JPEG 2000, JPEG XR, WebP, JPEG XL (TIFF's tag 259).
_LOSSY = (6, 7, 34712, 34933, 22610, 34892, 33003, 33004, 33005, 50001, 50002, 52546)


@dataclass(frozen=True)
class Pixels:
    """An image as :func:`maskrcnn.data.images.read_image` gives it."""

    values: Image


class _Source(Protocol):
    """size: (height, width).  ready: whether ``read`` gives values as the transforms take them.

    exact: whether those are to the bit what reading it whole gives; other decoders of JPEG round otherwise.
    """

    size: tuple[int, int]
    ready: bool
    exact: bool

    def read(self, window: Window) -> Array:
        """[h, w, C] of the file's type, a window inside the image."""
        ...


class Regions:
    """An image whose windows are read.

    size: (height, width) in pixels.
    """

    def __init__(self, source: _Source, sixteen_bit: SixteenBit, reading: ImageReading) -> None:
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
        if isinstance(self._source, _OfTiff):
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
        return Regions(_OfArray(image.values, reading, ready=True), sixteen_bit, reading)
    if isinstance(image, np.ndarray):
        return Regions(_OfArray(image, reading), sixteen_bit, reading)
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
        source = _OfArray(whole, reading, ready=True)
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


def _source(path: Path, head: bytes, reading: ImageReading, page: int) -> _Source | None:
    """What reads the file by windows; None where it is to be read whole."""
    if head.startswith(_NPY):
        try:
            return _OfArray(np.load(path, mmap_mode="r", allow_pickle=False), reading)
        except (ValueError, EOFError, OSError, SyntaxError) as error:
            raise DataError(f"the npy file is damaged or holds no numbers ({str(error)[:200]})") from None
    if head[:4] not in _TIFF:
        return None
    try:
        import tifffile  # optional, and rarely needed
    except ImportError:
        return None
    try:
        source = _OfTiff(tifffile.TiffFile(path), reading, page)
    except DataError:
        raise
    except Exception as error:  # of a damaged file, tifffile raises what its parts do
        raise DataError(f"the TIFF cannot be read: {str(error)[:300]}") from None
    return source if source.by_windows else None


class _OfArray:
    """An array in memory, or mapped."""

    exact = True

    def __init__(self, array: Array, reading: ImageReading, ready: bool = False) -> None:
        if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "buif":
            raise DataError(
                f"an image is an array [H, W], [H, W, C] or [C, H, W], got {array.dtype} {list(array.shape)}"
            )
        channels = reading.channels
        first = not ready and array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels
        self._array = np.moveaxis(array, 0, -1) if first else array
        self._reading, self.ready = reading, ready
        self.size = self._array.shape[0], self._array.shape[1]
        self.read(Window(0, 0, 1, 1))  # of other channels

    def read(self, window: Window) -> Array:
        x1, y1, x2, y2 = window.box
        part = self._array[y1:y2, x1:x2]
        return (
            part if self.ready else _with_channels(part if part.ndim == 3 else part[..., None], self._reading)
        )


class _OfTiff:
    """A page of a TIFF, or all as channels; decoded segments of the last windows are kept."""

    ready = False

    def __init__(self, file: Any, reading: ImageReading, page: int) -> None:
        pages = [p for p in file.pages if not p.is_reduced]
        if not pages or page >= len(pages):
            raise DataError(f"the TIFF has no page number {page} (from 0)")
        self._pages = pages if reading.pages == "channels" else pages[page : page + 1]
        self._file, self._reading = file, reading
        first = self._pages[0]
        self.size = int(first.imagelength), int(first.imagewidth)
        if any((p.imagelength, p.imagewidth) != self.size for p in self._pages):
            raise DataError("the TIFF's pages have several sizes, so they are no channels of one image")
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._bytes = 0
        #: False: what it holds is to be read by OpenCV, which knows more of palettes and orientations.
        self.by_windows = all(
            p.photometric in _READ
            and p.imagedepth == 1
            and p.axes in ("YX", "YXS", "SYX")
            and getattr(p.tags.get(274), "value", 1) == 1
            for p in self._pages
        )
        self.exact = all(p.photometric != 6 and p.compression not in _LOSSY for p in self._pages)
        segment = (
            (first.tilelength * first.tilewidth) if first.is_tiled else (first.rowsperstrip * self.size[1])
        )
        if self.by_windows and segment > MAX_PIXELS:
            raise DataError(
                f"its strips hold {segment:,} pixels each, and at most {MAX_PIXELS:,} are decoded at once;"
                " store it in tiles"
            )

    def close(self) -> None:
        self._file.close()

    def read(self, window: Window) -> Array:
        parts = [self._of_page(number, window) for number in range(len(self._pages))]
        return _with_channels(np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0], self._reading)

    def _of_page(self, number: int, window: Window) -> Array:
        page = self._pages[number]
        x1, y1, x2, y2 = window.box
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self.size[1])
        tall = min(tall, self.size[0]) if not page.is_tiled else tall
        across, down = -(-self.size[1] // wide), -(-self.size[0] // tall)
        out = np.zeros((window.height, window.width, page.samplesperpixel), dtype=page.dtype)
        for plane in range(planes):
            channels = slice(plane, plane + 1) if planes > 1 else slice(None)
            for row in range(y1 // tall, (y2 - 1) // tall + 1):
                for column in range(x1 // wide, (x2 - 1) // wide + 1):
                    values = self._segment(number, (plane * down + row) * across + column)
                    if values is None:  # a hole: nothing is stored of it
                        continue
                    top, left = row * tall, column * wide
                    bottom, right = min(top + values.shape[0], y2), min(left + values.shape[1], x2)
                    here = slice(max(top, y1) - y1, bottom - y1), slice(max(left, x1) - x1, right - x1)
                    out[here[0], here[1], channels] = values[
                        max(y1 - top, 0) : bottom - top, max(x1 - left, 0) : right - left
                    ]
        if page.photometric == 0 and out.dtype.kind == "u":  # white is 0
            out = np.iinfo(out.dtype).max - out
        return out

    def _segment(self, number: int, index: int) -> Array | None:
        key = number, index
        if key in self._kept:
            self._kept.move_to_end(key)
            found: Array | None = self._kept[key]
            return found
        page = self._pages[number]
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        options = (
            {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            if page.compression in (6, 7)
            else {}
        )
        try:
            data = None
            if count:
                self._file.filehandle.seek(offset)
                data = self._file.filehandle.read(count)
            decoded = page.decode(data, index, **options)[0]
        except Exception as error:  # of a damaged segment, or one that needs imagecodecs
            raise DataError(
                f"{shown(self._file.filename)}: the TIFF cannot be decoded: {str(error)[:300]}"
            ) from None
        values = None if decoded is None else decoded[0]
        self._kept[key] = values
        self._bytes += 0 if values is None else values.nbytes
        while self._bytes > _KEPT and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= 0 if old is None else old.nbytes
        return values


def _with_channels(part: Array, reading: ImageReading) -> Array:
    """[h, w, S] of any byte order -> [h, w, C], as whole files are read: gray repeated, alpha dropped, and of
    one channel the gray of colours.
    """
    part = part.astype(part.dtype.newbyteorder("="), copy=False)
    wanted, found = reading.channels, part.shape[2]
    if wanted == 3 and found in (1, 4):
        part = np.repeat(part, 3, axis=2) if found == 1 else part[..., :3]
    elif wanted == 1 and found in (3, 4) and part.dtype in (np.uint8, np.uint16, np.float32):
        part = cv2.cvtColor(np.ascontiguousarray(part[..., :3]), cv2.COLOR_RGB2GRAY)[..., None]
    if part.shape[2] != wanted:
        raise DataError(wrong_channels(part.shape[2], reading))
    return part
