"""Pictures beside pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.viz.labels import FONT, Image, font_scale, printable, text_box, weight
from maskrcnn.viz.palette import LESS, MORE

ClassMap = npt.NDArray[np.int64]

#: Gray of the space between pictures.
GROUND = 24
GAP = 8


def side_by_side(*pictures: Image, titles: Sequence[str] = ("prediction", "ground truth")) -> Image:
    """Pictures in a row at the height of the highest, each under its title.

    ``pictures``: uint8 [H_i, W_i, 3]; one without a title is left untitled.  Returns uint8 [H, W, 3].

    Raises:
        ValueError: no pictures.
    """
    if not pictures:
        raise ValueError("side_by_side needs at least one picture")
    height = max(p.shape[0] for p in pictures)
    columns = []
    for i, picture in enumerate(pictures):
        fitted = _fit(picture, height, 1 << 20)
        columns.append(titled(fitted, titles[i]) if i < len(titles) and titles[i] else fitted)
    tallest = max(c.shape[0] for c in columns)
    width = sum(c.shape[1] for c in columns) + GAP * (len(columns) - 1)
    out = np.full((tallest, width, 3), GROUND, dtype=np.uint8)
    x = 0
    for column in columns:
        out[tallest - column.shape[0] :, x : x + column.shape[1]] = column
        x += column.shape[1] + GAP
    return out


def titled(picture: Image, title: str) -> Image:
    """The picture under a dark bar that carries ``title``."""
    scale = font_scale(*picture.shape[:2])
    text = printable(title)
    width, height, baseline = text_box(text, scale)
    if width > picture.shape[1]:
        scale *= picture.shape[1] / width
    bar = np.full((height + 4, picture.shape[1], 3), GROUND, dtype=np.uint8)
    cv2.putText(bar, text, (4, baseline + 2), FONT, scale, (235, 235, 235), weight(scale), cv2.LINE_AA)
    return np.concatenate([bar, picture])


def contact_sheet(
    pictures: Sequence[Image], columns: int | None = None, cell: int = 480, titles: Sequence[str] = ()
) -> Image:
    """Pictures on a grid, each fitted into a cell without distortion, in reading order.

    Args:
        pictures: uint8 [H_i, W_i, 3].
        columns: pictures in a row; None: about as many as rows.
        cell: width of a cell and its greatest height, in pixels.
        titles: one a picture, or none.

    Returns:
        uint8 [H, W, 3]; of no pictures, one empty cell.
    """
    columns = columns or math.ceil(math.sqrt(max(len(pictures), 1)))
    bar = text_box("Ag", font_scale(cell, cell))[1] + 8 if titles else 0
    fitted = [_fit(picture, cell - bar, cell) for picture in pictures]
    if titles:
        fitted = [titled(picture, title) for picture, title in zip(fitted, titles, strict=True)]
    bands = []
    for start in range(0, max(len(fitted), 1), columns):
        row = fitted[start : start + columns]
        height = max((picture.shape[0] for picture in row), default=cell)
        band = np.full((height + GAP, columns * (cell + GAP) + GAP, 3), GROUND, dtype=np.uint8)
        for i, picture in enumerate(row):
            y = GAP + (height - picture.shape[0]) // 2
            x = GAP + i * (cell + GAP) + (cell - picture.shape[1]) // 2
            band[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
        bands.append(band)
    bands.append(np.full((GAP, bands[0].shape[1], 3), GROUND, dtype=np.uint8))
    return np.concatenate(bands)


def mark_differences(picture: Image, own: ClassMap, reference: ClassMap) -> Image:
    """Paint the pixels at which two maps of classes differ, over a picture enlarged by a whole number.

    What the reference lacks, or calls another class, in :data:`MORE`; what only the reference has in
    :data:`LESS`.

    Args:
        picture: uint8 [k * H, k * W, 3].
        own, reference: int64 [H, W], below 0 where there is nothing.
    """
    factor = picture.shape[0] // own.shape[0]
    out = picture.copy()
    differ = own != reference
    for pixels, colour in ((differ & (own >= 0), MORE), (differ & (own < 0), LESS)):
        large = np.kron(pixels, np.ones((factor, factor), dtype=np.bool_))
        out[large] = np.rint(0.25 * out[large] + 0.75 * np.array(colour)).astype(np.uint8)
    return np.asarray(out, dtype=np.uint8)


def shrunk(picture: Image, longest: int) -> Image:
    """The picture, smaller where its longer side is above ``longest`` pixels."""
    return picture if max(picture.shape[:2]) <= longest else _fit(picture, longest, longest)


def _fit(picture: Image, height: int, width: int) -> Image:
    """Scaled to the largest size within ``height`` x ``width`` that keeps its shape."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)
