"""What a file says of itself: sizes, orientations, and sizes that are none."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.data import CocoDataset
from maskrcnn.data.image_header import MAX_PIXELS, ImageHeader, parse_header, read_header
from maskrcnn.data.images import decode_image, read_image
from maskrcnn.errors import DataError
from tests.data.files import SIZE, coco, with_exif, write_coco


def encode(kind: str, image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(kind, image)
    assert ok
    return bytes(data.tobytes())


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".webp", ".gif"])
@pytest.mark.parametrize(("height", "width"), [(1, 7), (300, 40), (13, 513)])
def test_sizes_are_those_that_the_decoder_finds(kind: str, height: int, width: int) -> None:
    data = encode(kind, np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    assert parse_header(data) == ImageHeader(width, height)
    assert decode_image(data).shape[:2] == (height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_jpeg_is_that_which_the_decoder_follows(orientation: int) -> None:
    data = with_exif(encode(".jpg", np.zeros((16, 32, 3), dtype=np.uint8)), orientation)
    header = parse_header(data)
    assert header == ImageHeader(32, 16, orientation)
    for exif in (True, False):
        assert header.size(exif) == decode_image(data, exif=exif).shape[:2]


@pytest.mark.parametrize("kind", [".png", ".jpg", ".webp", ".tif"])
def test_any_cut_is_no_header_or_the_right_one(kind: str) -> None:
    data = with_exif(encode(".jpg", np.zeros((9, 8, 3), np.uint8)), 6) if kind == ".jpg" else None
    data = data or encode(kind, np.zeros((9, 8, 3), np.uint8))
    whole = parse_header(data)
    assert {parse_header(data[:n]) for n in range(min(len(data), 700))} <= {None, whole}


def test_a_file_that_is_not_there_has_no_header(tmp_path: Path) -> None:
    assert read_header(tmp_path / "none.png") is None
    assert read_header(tmp_path) is None


@pytest.mark.parametrize(
    ("width", "height", "sentence"),
    [
        (
            33_000,
            33_000,
            r"33000 x 33000 pixels: .* at most 1,073,741,824 pixels in all .* cut it into tiles",
        ),
        (1_000_001, 1, r"1000001 x 1 pixels: .* 1,000,000 a side"),
        (2**31 - 1, 2**31 - 1, r"cut it into tiles"),
        (32_000, 32_000, r"32000 x 32000 pixels, which its \d+ bytes cannot hold: it is damaged"),
    ],
)
def test_what_cannot_be_decoded_is_refused_by_its_header(
    width: int, height: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the pixels were asked for"))
    (tmp_path / "a.png").write_bytes(png(width, height))
    with pytest.raises(DataError, match=rf"a\.png: .*{sentence}"):
        read_image(tmp_path / "a.png")


def test_too_many_pixels_in_a_format_without_a_known_header() -> None:
    sunraster = struct.pack(">8I", 0x59A66A95, 33_000, 33_000, 8, 33_000 * 33_000, 1, 0, 0) + bytes(1000)
    assert parse_header(sunraster) is None
    with pytest.raises(DataError, match="at most 1,073,741,824 pixels in all .* cut it into tiles"):
        decode_image(sunraster)


def test_long_images_and_well_packed_ones_are_read() -> None:
    assert decode_image(png(33_000, 100, b"\0" * 33_001 * 100)).shape == (100, 33_000, 3)
    white = np.full((3000, 3000), 255, np.uint8)
    ok, data = cv2.imencode(".png", white, [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert ok and white.size > 2000 * len(data)
    assert decode_image(data.tobytes()).shape == (3000, 3000, 3)
    assert MAX_PIXELS == 2**30


def test_a_wrong_size_is_told_before_the_pixels_take_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, path = write_coco(tmp_path)
    (images / "0.png").write_bytes(png(30_000, 30_000))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the pixels were asked for"))
    with pytest.raises(DataError, match=r"image 10: .*0\.png is 30000x30000 pixels, .* says 60x40; correct"):
        CocoDataset(images, path).load(0)


@pytest.mark.parametrize("exif", [True, False])
def test_exchanged_sides_without_exif_are_the_jsons_fault(tmp_path: Path, exif: bool) -> None:
    content = coco()
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    images, path = write_coco(tmp_path, content)
    for annotation in content["annotations"]:  # inside either frame
        annotation["bbox"] = [1, 1, 5, 5]
    with pytest.raises(DataError, match=r"says 40x60; width and height are exchanged in the json") as found:
        CocoDataset(images, path, exif=exif).load(0)
    assert "exif" not in str(found.value).replace(str(tmp_path), "")
    write_coco(tmp_path, coco())  # the advice followed
    assert CocoDataset(images, path, exif=exif).load(0).size == SIZE
