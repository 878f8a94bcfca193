"""Images of any number of channels, from npy files and TIFFs."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.images import decode_image, read_image
from maskrcnn.data.interfaces import ContrastConfig, ImageReading
from maskrcnn.errors import DataError

needs_tifffile = pytest.mark.skipif(
    importlib.util.find_spec("tifffile") is None, reason="tifffile is not installed"
)
FIVE = ImageReading(channels=5)


def pixels(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 250, (20, 30, channels))
    return values.astype(dtype)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(*pages: np.ndarray, **options: Any) -> bytes:
    import tifffile

    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page, **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_npy_in_either_order(channels: int) -> None:
    image, reading = pixels(channels), ImageReading(channels=channels)
    for array in (image, np.ascontiguousarray(image.transpose(2, 0, 1))):
        found = decode_image(npy(array), reading=reading)
        assert np.array_equal(found, image) and found.flags.c_contiguous
    if channels == 1:
        assert np.array_equal(decode_image(npy(image[..., 0]), reading=reading), image)


def test_npy_of_three_channels_and_other_types() -> None:
    gray = pixels(1)[..., 0]
    assert np.array_equal(decode_image(npy(gray)), np.repeat(gray[..., None], 3, axis=2))
    assert np.array_equal(decode_image(npy(pixels(4))), pixels(4)[..., :3])
    assert np.array_equal(decode_image(npy(pixels(3, ">u2") * 257)), pixels(3))  # big-endian, scaled
    assert decode_image(npy(pixels(3, np.uint16)), sixteen_bit="keep").dtype == np.float32
    assert np.array_equal(decode_image(npy(gray > 100))[..., 0], np.where(gray > 100, 255, 0))


@needs_tifffile
def test_tiff_layouts() -> None:
    """Interleaved and planar, big-endian, compressed, BigTIFF: the same five channels of 16 bits."""
    image = pixels(5, np.uint16) * 257
    planar = np.ascontiguousarray(image.transpose(2, 0, 1))
    files = [
        tiff(image, photometric="minisblack", planarconfig="contig"),
        tiff(planar, photometric="minisblack", planarconfig="separate"),
        tiff(image, photometric="minisblack", planarconfig="contig", compression="zlib"),
    ]
    for data in files:
        assert np.array_equal(decode_image(data, reading=FIVE), pixels(5))
        assert np.array_equal(decode_image(data, reading=ImageReading(5, "channels")), pixels(5))


@needs_tifffile
def test_pages_as_channels_as_images_or_the_first_alone() -> None:
    image = pixels(5)
    data = tiff(*(image[..., k] for k in range(5)))
    assert np.array_equal(decode_image(data, reading=ImageReading(5, "channels")), image)
    for k in range(5):
        found = decode_image(data, reading=ImageReading(1, "images"), page=k)
        assert np.array_equal(found, image[..., k : k + 1])
        found = decode_image(data, reading=ImageReading(3, "images"), page=k)
        assert np.array_equal(found, np.repeat(image[..., k : k + 1], 3, axis=2))
    assert np.array_equal(decode_image(data), np.repeat(image[..., :1], 3, axis=2))  # OpenCV, as ever
    two = tiff(image[..., :3], image[..., 3:], photometric="minisblack", planarconfig="contig")
    assert np.array_equal(decode_image(two, reading=ImageReading(5, "channels")), image)


@needs_tifffile
def test_what_a_tiff_does_not_hold_is_told() -> None:
    data = tiff(*(pixels(5)[..., k] for k in range(5)))
    with pytest.raises(DataError, match=r"has 1 channel, and data\.channels is 5.*data\.pages: channels"):
        decode_image(data, reading=FIVE)
    with pytest.raises(DataError, match=r"has 5 pages, and number 5 \(from 0\) is asked for"):
        decode_image(data, reading=ImageReading(1, "images"), page=5)
    with pytest.raises(DataError, match=r"has 5 channels, and data\.channels is 4; set data\.channels to 5"):
        decode_image(data, reading=ImageReading(4, "channels"))
    sizes = tiff(pixels(1)[..., 0], pixels(1)[:10, :, 0])
    with pytest.raises(DataError, match="2 sizes"):
        decode_image(sizes, reading=ImageReading(2, "channels"))
    for end in (9, 60, len(data) // 2):
        with pytest.raises(DataError):
            decode_image(data[:end], reading=ImageReading(5, "channels"))


def test_what_an_npy_file_does_not_hold_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(pixels(3)))
    with pytest.raises(DataError, match=r"a\.npy: the image has 3 channels, and data\.channels is 5"):
        read_image(tmp_path / "a.npy", reading=FIVE)
    with pytest.raises(DataError, match=r"an array of \[4\]; an image is"):
        decode_image(npy(np.zeros(4, np.uint8)))
    with pytest.raises(DataError, match="damaged"):
        decode_image(npy(pixels(3))[:200])
    objects = io.BytesIO()
    np.save(objects, np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="damaged or holds no numbers"):  # nothing is unpickled
        decode_image(objects.getvalue())
    with pytest.raises(DataError, match="no numbers"):
        decode_image(npy(np.array([["a"]])))
    with pytest.raises(DataError, match=r"holds float64 values.*data\.contrast"):
        decode_image(npy(pixels(3, np.float64)))
    told = ContrastConfig(percentiles=(1, 99.8))  # the advice works
    assert decode_image(npy(pixels(3, np.float64)), reading=ImageReading(contrast=told)).max() == 255


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match=r"pip install maskrcnn\[tiff\]"):
        decode_image(b"II*\0" + bytes(200), reading=FIVE)
