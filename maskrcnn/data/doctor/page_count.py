"""How many pictures an image file holds, told by Pillow without decoding; the first is read.

Nothing here raises: a file that is damaged or cut counts as one picture, and its decoder says what is wrong.
"""

from __future__ import annotations

import warnings
from itertools import count
from pathlib import Path

from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from maskrcnn.data.image_files import open_image

#: Counting stops here.
MOST_PAGES = 10_000
#: Kinds of files that can hold several, by the ends of their names; the others are never opened.
SUFFIXES = frozenset({".png", ".apng", ".gif", ".webp", ".tif", ".tiff"})
#: TIFF's NewSubfileType, and its bits for a smaller copy of a page and for a mask (TIFF 6.0, section 8).
_SUBFILE_TYPE, _COPY_OR_MASK = 254, 0b101


def count_pages(path: Path) -> int:
    """Frames or pages of a PNG, GIF, WebP or TIFF file; 1 for all others.

    Smaller copies of a page (pyramids, thumbnails) and masks in a TIFF are not counted.
    """
    if path.suffix.lower() not in SUFFIXES:
        return 1
    for kind in (PngImageFile, GifImageFile, WebPImageFile, TiffImageFile):
        try:
            with warnings.catch_warnings(), open_image(path) as file, kind(file) as image:
                warnings.simplefilter("ignore")  # of what is wrong with it, too
                pages = _pages(image) if isinstance(image, TiffImageFile) else image.n_frames
                return min(max(pages, 1), MOST_PAGES)
        except SyntaxError:  # another kind of file
            continue
        except Exception:  # whatever a damaged file makes of it
            break
    return 1


def _pages(image: TiffImageFile) -> int:
    pages = 0
    for place in count():
        try:
            image.seek(place)
        except EOFError:
            return pages
        pages += not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _COPY_OR_MASK
        if pages >= MOST_PAGES:
            return pages
    return pages
