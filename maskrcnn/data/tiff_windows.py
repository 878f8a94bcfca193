"""Windows of a TIFF of tiles or strips, OME-TIFF and BigTIFF among them.

tifffile decodes its segments one by one: no others than those that a window meets.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from maskrcnn.data.array_windows import Array, with_channels
from maskrcnn.data.file_names import shown
from maskrcnn.data.image_header import MAX_PIXELS
from maskrcnn.data.interfaces import ImageReading
from maskrcnn.data.windows import Window
from maskrcnn.errors import DataError

#: Bytes of decoded segments that are kept for the next windows.
_KEPT = 256 << 20
#: White is 0, black is 0, RGB, YCbCr (TIFF 6.0, tag 262): others mean something that OpenCV knows.
_READ = (0, 1, 2, 6)
#: JPEG, old and new, JPEG 2000, JPEG XR, WebP, JPEG XL (TIFF's tag 259).
_LOSSY = (6, 7, 34712, 34933, 22610, 34892, 33003, 33004, 33005, 50001, 50002, 52546)


class TiffWindows:
    """A page of a TIFF, or all as channels: a :class:`maskrcnn.data.regions.WindowSource`.

    Decoded segments of the last windows are kept.
    """

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
        return with_channels(np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0], self._reading)

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
