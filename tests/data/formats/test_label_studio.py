"""Label Studio's brush, read again by the format's rules."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.data.formats.label_studio import brush_rle, label_studio_result, label_studio_task
from maskrcnn.structures import rle

#: What ``label_studio_converter.brush.mask2rle`` (0.0.59) gives of :func:`ring` times 255.
OF_THE_CONVERTER = bytes.fromhex("000000a8391bfe2300b7ff7c023ff8c023ffbe016fff1f8000")


def ring() -> np.ndarray:
    bitmap = np.zeros((6, 7), dtype=np.uint8)
    bitmap[1:4, 2:5] = 1
    bitmap[2, 3] = 0
    return bitmap


def drawn(data: list[int]) -> np.ndarray:
    """The bytes that a brush stands for, as Label Studio's front end reads them."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def number(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    total, word = number(32), number(5) + 1
    widths = [number(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < total:
        is_run = number(1)
        length = number(widths[number(2)]) + 1
        out += [number(word)] * length if is_run else [number(word) for _ in range(length)]
    return np.array(out, dtype=np.uint8)


def test_a_brush_is_the_converters() -> None:
    assert brush_rle(rle.encode(ring())) == list(OF_THE_CONVERTER)


@pytest.mark.parametrize("density", [0.0, 0.3, 0.9, 1.0])
def test_a_brush_gives_the_mask_back(density: float) -> None:
    rng = np.random.default_rng(int(10 * density))
    for size in ((1, 1), (5, 9), (40, 30), (300, 260)):  # the last has runs beyond 2^16 bytes
        bitmap = np.zeros(size, dtype=np.uint8)
        bitmap[size[0] // 3 :] = rng.random((size[0] - size[0] // 3, size[1])) < density
        found = drawn(brush_rle(rle.as_text(rle.encode(bitmap)))).reshape(*size, 4)
        assert np.array_equal(found, np.repeat(255 * bitmap[..., None], 4, axis=2))


def test_a_task_names_its_image_and_boxes_are_in_percent() -> None:
    box = label_studio_result(1, "cell", 0.5, [10, 20, 30, 40], None, (200, 100))
    value = {"x": 10, "y": 10, "width": 30, "height": 20, "rotation": 0, "rectanglelabels": ["cell"]}
    assert (box["type"], box["value"], box["original_width"]) == ("rectanglelabels", value, 100)
    brush = label_studio_result(2, "cell", 0.75, [2, 1, 3, 3], rle.encode(ring()), (6, 7))
    assert (brush["type"], brush["value"]["brushlabels"]) == ("brushlabels", ["cell"])
    task = label_studio_task("a b/1.png", "mine", [box, brush])
    assert task["data"]["image"] == "/data/local-files/?d=a%20b/1.png"
    assert task["predictions"][0]["score"] == 0.625
    with pytest.raises(ValueError, match="no brush"):
        brush_rle({"size": [1 << 15, 1 << 15], "counts": rle.encode(ring())["counts"]})
