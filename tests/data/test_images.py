"""Every kind of image file becomes RGB, or a sentence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.data.images import decode_image, read_image
from maskrcnn.errors import DataError
from tests.data.files import palette_png, with_exif


def encode(kind: str, image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(kind, image)
    assert ok
    return bytes(data.tobytes())


def test_colours_come_in_rgb_order() -> None:
    bgr = np.zeros((2, 3, 3), dtype=np.uint8)
    bgr[..., 2] = 200
    image = decode_image(encode(".png", bgr))
    assert image.dtype == np.uint8
    assert image.shape == (2, 3, 3)
    assert image[0, 0].tolist() == [200, 0, 0]


def test_gray_and_alpha() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (decode_image(encode(".png", gray)) == gray[:, :, None]).all()
    bgra = np.dstack([gray, gray + 20, gray + 40, np.zeros_like(gray)])  # wholly transparent
    assert (decode_image(encode(".png", bgra)) == np.dstack([gray + 40, gray + 20, gray])).all()


def test_palette() -> None:
    data = palette_png(np.array([[0, 1], [2, 0]]), [(255, 0, 0), (0, 255, 0), (1, 2, 3)])
    assert decode_image(data).tolist() == [[[255, 0, 0], [0, 255, 0]], [[1, 2, 3], [255, 0, 0]]]


def test_sixteen_bits_scaled_or_kept() -> None:
    deep = np.array([[0, 128, 129, 257, 65535, 40000]], dtype=np.uint16)
    scaled = decode_image(encode(".png", deep))
    assert scaled.dtype == np.uint8
    assert scaled[0, :, 0].tolist() == [0, 0, 1, 1, 255, 156]
    kept = decode_image(encode(".png", deep), sixteen_bit="keep")
    assert kept.dtype == np.float32
    assert np.allclose(kept[0, :, 1], deep[0] / 257)


# The stored pixels are [[a, b]], a left of b; the orientations as the EXIF standard (tag 274) defines them.
UPRIGHT = {1: "ab", 2: "ba", 3: "ba", 4: "ab", 5: "a/b", 6: "a/b", 7: "b/a", 8: "b/a"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    stored = np.zeros((16, 32, 3), dtype=np.uint8)
    stored[:, 16:] = 255
    data = with_exif(encode(".jpg", stored), orientation)
    image = decode_image(data).astype(int)
    if "/" in UPRIGHT[orientation]:
        assert image.shape == (32, 16, 3)
        first, last = image[4].mean(), image[-4].mean()
        order = UPRIGHT[orientation].split("/")
    else:
        assert image.shape == (16, 32, 3)
        first, last = image[:, 4].mean(), image[:, -4].mean()
        order = list(UPRIGHT[orientation])
    assert (first < 50 < 200 < last) if order == ["a", "b"] else (last < 50 < 200 < first)
    assert decode_image(data, exif=False).shape == (16, 32, 3)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_a_truncated_file_is_told(kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    data = encode(kind, noise)
    decode_image(data)
    with pytest.raises(DataError, match="truncated|damaged"):
        decode_image(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_truncated_file_is_told_even_where_opencv_fills_it_up(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Older versions return what there is of a cut JPEG, the rest gray.
    whole = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    data = encode(kind, whole)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: whole)
    assert decode_image(data).shape == whole.shape
    with pytest.raises(DataError, match="truncated"):
        decode_image(data[:-20])


def test_a_thumbnails_end_is_not_the_images_end() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    jpeg = encode(".jpg", noise)
    thumbnail = b"\xff\xe2" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg  # an application segment
    whole = jpeg[:2] + thumbnail + jpeg[2:]
    assert decode_image(whole).shape == (40, 50, 3)
    with pytest.raises(DataError, match="truncated"):
        decode_image(whole[: -len(jpeg) // 2])
    # Bytes after the end marker are harmless.
    assert decode_image(whole + b"\0" * 64).shape == (40, 50, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "damaged, truncated, or of a format"),
        (b"\xff\xd8\xff", "truncated"),
    ],
)
def test_what_is_no_image(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_missing_file_folder_and_floats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: there is no such image file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)
    cv2.imwrite(str(tmp_path / "float.tiff"), np.zeros((4, 4, 3), dtype=np.float32))
    with pytest.raises(DataError, match=r"float32 values; store it with 8 or 16 bits"):
        read_image(tmp_path / "float.tiff")
