"""Label Studio's json of tasks with predictions, which its import shows as pre-annotations.

A mask is a brush of the RLE that Label Studio's own converter writes (label_studio_sdk.converter.brush): runs
of the bytes of the image as RGBA, row by row, each number in as few of 3, 4, 8 or 16 bits as hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from maskrcnn.structures import rle

#: Names of the tags of the labelling interface: ``<Image name="image">``, and ``<BrushLabels name="tag">`` or
#: ``<RectangleLabels name="tag">``, as in Label Studio's templates.
IMAGE_TAG, LABEL_TAG = "image", "tag"
#: Bits of a run's length, by the two bits that choose among them.
_WIDTHS = (3, 4, 8, 16)
_LONGEST = 1 << _WIDTHS[-1]


def brush_rle(code: rle.RLE | rle.TextRLE) -> list[int]:
    """A mask as Label Studio's brush: the bytes of its RLE.

    Raises:
        ValueError: the image has more than 2^30 pixels, whose bytes the format cannot count.
    """
    height, width = code["size"]
    total = 4 * height * width
    if total >= 1 << 32:
        raise ValueError(f"an image of {height * width} pixels has no brush in Label Studio")
    bitmap, x0, y0 = rle.decode_crop(code)
    steps = np.diff(np.pad(bitmap.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, column = np.nonzero(steps)
    ends = 4 * rle.odd_positions((row + y0) * width + column + x0)
    lengths = np.diff(ends, prepend=0, append=total).tolist()
    words = [f"{total:032b}", f"{8 - 1:05b}", *(f"{bits - 1:04b}" for bits in _WIDTHS)]
    for place, length in enumerate(lengths):
        words += _runs(length, 255 * (place % 2))
    bits = "".join(words)
    bits += "0" * (8 - len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _runs(length: int, value: int) -> Iterable[str]:
    """A run in bits: that it is one, its width, its length less one, its value; over 2^16, several."""
    kind = next((i for i, bits in enumerate(_WIDTHS) if length <= 1 << bits), len(_WIDTHS) - 1)
    while length:
        now = min(length, _LONGEST)
        length -= now
        yield f"1{kind:02b}{now - 1:0{_WIDTHS[kind]}b}{value:08b}"


def label_studio_result(
    number: int,
    name: str,
    score: float,
    box: Sequence[float],
    code: rle.RLE | rle.TextRLE | None,
    size: tuple[int, int],
) -> dict[str, Any]:
    """An object: a brush, or where it has no mask a rectangle in percent of the image's sides.

    Args:
        number: its place among those of its task.
        box: x, y, width, height in pixels.
        size: (height, width) of the image in pixels.
    """
    height, width = size
    if code is not None:
        kind = "brushlabels"
        value: dict[str, Any] = {"format": "rle", "rle": brush_rle(code), kind: [name]}
    else:
        x, y, w, h = (100 * v / side for v, side in zip(box, (width, height) * 2, strict=True))
        kind = "rectanglelabels"
        value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, kind: [name]}
    return {
        "id": str(number),
        "type": kind,
        "from_name": LABEL_TAG,
        "to_name": IMAGE_TAG,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
        "score": score,
    }


def label_studio_task(file_name: str, model: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """An image with its objects; ``file_name`` is its path in Label Studio's local storage."""
    prediction: dict[str, Any] = {"model_version": model, "result": results}
    if results:
        prediction["score"] = sum(result["score"] for result in results) / len(results)
    image = f"/data/local-files/?d={quote(file_name, errors='surrogateescape')}"
    return {"data": {IMAGE_TAG: image}, "predictions": [prediction]}
