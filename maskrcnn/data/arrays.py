"""Images of any number of channels: npy files, and TIFF by tifffile (``pip install maskrcnn[tiff]``).

OpenCV reads TIFFs of 1, 3 and 4 channels alone, PIL those of 8 bits; tifffile is the format's own library in
Python, and knows the dialects of microscopes.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.image_header import MAX_PIXELS, TOO_LARGE
from maskrcnn.data.images import DECODERS, wrong_channels
from maskrcnn.data.interfaces import ImageReading
from maskrcnn.errors import DataError, plural

Array = npt.NDArray[Any]


@DECODERS.register("npy")
def decode_npy(data: bytes, reading: ImageReading, page: int) -> Array:
    """An array [H, W], [H, W, C] or [C, H, W] -> [H, W, C]; C is the number that is read.

    Raises:
        DataError: it is damaged, holds objects, or is of another shape.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError) as error:
        raise DataError(f"the npy file is damaged or holds no numbers ({str(error)[:200]})") from None
    if array.dtype.kind not in "buif":
        raise DataError(f"the npy file holds {array.dtype} and no numbers; store integers or floats")
    return with_channels(array, reading)


@DECODERS.register("tiff")
def decode_tiff(data: bytes, reading: ImageReading, page: int) -> Array:
    """A page, or all pages as channels -> [H, W, C].

    Raises:
        DataError: tifffile is missing, or the file is damaged, or has other channels or no such page.
    """
    try:
        import tifffile  # optional, and rarely needed
    except ImportError:
        raise DataError(
            "a TIFF of other than 1 or 3 channels, or of several pages, is read by the tifffile library: pip"
            " install maskrcnn[tiff]"
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pages = [p for p in file.pages if not p.is_reduced]
            if not pages:
                raise DataError("the TIFF holds no image")
            if reading.pages == "channels":
                return with_channels(_joined(pages), reading)
            if page >= len(pages):
                raise DataError(
                    f"the TIFF has {plural(len(pages), 'page')}, and number {page} (from 0) is asked for"
                )
            return with_channels(_page(pages[page]), reading)
    except DataError:
        raise
    except Exception as error:  # of a damaged file, tifffile raises what its parts do
        raise DataError(f"the TIFF cannot be decoded: {str(error)[:300]}") from None


def _joined(pages: list[Any]) -> Array:
    sizes = {page.shape[:2] if page.axes.startswith("YX") else page.shape[-2:] for page in pages}
    if len(sizes) > 1:
        raise DataError(
            f"the TIFF's pages have {plural(len(sizes), 'size')}, so they are no channels of one image"
        )
    parts = [_page(page) for page in pages]
    return np.concatenate([part if part.ndim == 3 else part[..., None] for part in parts], axis=2)


def _page(page: Any) -> Array:
    """[H, W] or [H, W, C]."""
    if page.imagewidth * page.imagelength > MAX_PIXELS:
        raise DataError(f"{page.imagewidth} x {page.imagelength} pixels: {TOO_LARGE}")
    if page.imagedepth > 1 or page.axes not in ("YX", "YXS", "SYX"):
        raise DataError(f"the TIFF's page has axes {page.axes}; store planes as pages")
    array: Array = page.asarray()
    return np.moveaxis(array, 0, -1) if page.axes == "SYX" else array


def with_channels(array: Array, reading: ImageReading) -> Array:
    """[H, W], [H, W, C] or [C, H, W] -> [H, W, ``reading.channels``], in the type of the file.

    Gray becomes three equal channels where three are read, and of four the fourth is dropped.

    Raises:
        DataError: another shape, or no pixel.
    """
    wanted = reading.channels
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise DataError(
            f"the file holds an array of {list(array.shape)}; an image is [H, W], [H, W, C] or [C, H, W]"
        )
    if array.shape[2] != wanted and array.shape[0] == wanted:
        array = np.moveaxis(array, 0, -1)
    if wanted == 3 and array.shape[2] in (1, 4):
        array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]
    if array.shape[2] != wanted:
        raise DataError(wrong_channels(array.shape[2], reading))
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(array)
