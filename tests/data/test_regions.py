"""Windows of files are the same pixels as of the whole image, and what cannot be read is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.data.images import read_image
from maskrcnn.data.interfaces import ContrastConfig, ImageReading
from maskrcnn.data.regions import open_regions
from maskrcnn.data.windows import Window
from maskrcnn.errors import DataError

tifffile = pytest.importorskip("tifffile")
WINDOWS = [Window(0, 0, 40, 30), Window(37, 61, 50, 33), Window(70, 90, 63, 41), Window(0, 0, 133, 131)]


def picture(dtype: Any = np.uint8, channels: int = 3) -> Any:
    rng = np.random.default_rng(0)
    shape = (131, 133, channels) if channels > 1 else (131, 133)
    return rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def part(image: Any, window: Window) -> Any:
    x1, y1, x2, y2 = window.box
    return image[y1:y2, x1:x2]


def test_sixteen_bits_and_gray_are_as_of_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, picture(np.uint16, 1), tile=(32, 32), photometric="minisblack")
    for options in ({"sixteen_bit": "scale"}, {"sixteen_bit": "keep"}, {"reading": ImageReading(1)}):
        whole = read_image(path, **options)  # type: ignore[arg-type]
        regions = open_regions(path, **options)  # type: ignore[arg-type]
        for window in WINDOWS:
            values = regions.read(window).values
            assert values.dtype == whole.dtype
            np.testing.assert_array_equal(values, part(whole, window))


def test_white_is_zero_and_palettes(tmp_path: Path) -> None:
    gray = picture(channels=1)
    tifffile.imwrite(tmp_path / "white.tif", gray, tile=(32, 32), photometric="miniswhite")
    colours = np.random.default_rng(1).integers(0, 2**16, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "palette.tif", gray, colormap=colours, photometric="palette")
    for path in tmp_path.iterdir():
        whole = read_image(path)
        np.testing.assert_array_equal(open_regions(path).read(WINDOWS[1]).values, part(whole, WINDOWS[1]))


@pytest.mark.parametrize("over", ["channel", "image"])
def test_a_contrast_is_that_of_the_whole_image(over: Any) -> None:
    rng = np.random.default_rng(2)
    ramp = (np.linspace(0, 4000, 1600)[None, :] + rng.normal(0, 40, (1200, 1600))).astype(np.float32)
    reading = ImageReading(3, contrast=ContrastConfig(over=over))
    regions = open_regions(np.dstack([ramp, ramp / 2, ramp * 2]), reading=reading)
    left = regions.read(Window(0, 0, 64, 64)).values
    right = regions.read(Window(1536, 1136, 64, 64)).values
    assert left.mean() < 10 and right[..., 2].mean() > 240  # not each window by itself
    assert right[..., 0].mean() == pytest.approx(250 if over == "channel" else 125, abs=8)


def test_other_formats_are_read_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, path = picture(), tmp_path / "image.png"
    cv2.imwrite(str(path), image[..., ::-1])
    regions = open_regions(path)
    monkeypatch.setattr("maskrcnn.data.regions.read_image", None)
    for window in WINDOWS:
        np.testing.assert_array_equal(regions.read(window).values, part(image, window))


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="there is no such image file"):
        open_regions(tmp_path / "none.tif")
    with pytest.raises(DataError, match="is a folder"):
        open_regions(tmp_path)
    damaged = tmp_path / "damaged.tif"
    tifffile.imwrite(damaged, picture(), tile=(32, 32), compression="zlib", photometric="rgb")
    data = bytearray(damaged.read_bytes())
    data[600:1200] = bytes(600)
    damaged.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged\.tif: the TIFF cannot be (decoded|read)"):
        open_regions(damaged).read(Window(0, 0, 133, 131))
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), np.zeros((40, 40), dtype=np.uint8))
    head = bytearray(large.read_bytes())
    head[16:24] = (50_000).to_bytes(4, "big") * 2
    large.write_bytes(head)
    with pytest.raises(
        DataError, match="read whole, and that works up to 1,073,741,824 pixels; store it as a"
    ):
        open_regions(large)
