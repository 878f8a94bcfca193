"""Every kind of image file becomes RGB, or a sentence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.data.images import decode_image, read_image, stretch
from maskrcnn.data.interfaces import ContrastConfig, ImageReading
from maskrcnn.errors import ConfigError, DataError
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


def apply(contrast: ContrastConfig, image: np.ndarray) -> np.ndarray:
    return stretch(image, contrast)


def test_twelve_bits_in_sixteen_have_contrast() -> None:
    """Between percentiles, or between values of the file: what was nearly black fills the range."""
    deep = np.random.default_rng(0).integers(100, 4000, (60, 50, 3), dtype=np.uint16)
    data = encode(".png", deep)
    assert decode_image(data).max() <= 16  # a sixteenth of the range
    found = decode_image(data, reading=ImageReading(contrast=ContrastConfig()))
    assert found.dtype == np.float32 and (found.min(), found.max()) == (0, 255)
    low, high = np.percentile(deep[..., ::-1], (1, 99.8), axis=(0, 1))
    expected = ((deep[..., ::-1] - low) / (high - low) * 255).clip(0, 255)
    assert np.allclose(found, expected, atol=0.01)
    both = ContrastConfig(percentiles=(0, 100), over="image")
    together = decode_image(data, reading=ImageReading(contrast=both))
    assert np.allclose(together, (deep[..., ::-1] - float(deep.min())) / float(np.ptp(deep)) * 255, atol=0.01)
    fixed = decode_image(data, reading=ImageReading(contrast=ContrastConfig(range=(0, 4095))))
    assert np.allclose(fixed, deep[..., ::-1] / 4095 * 255, atol=0.01)


def test_contrast_of_floats_of_holes_and_of_one_value() -> None:
    values = np.linspace(-3, 5, 3000).reshape(50, 60)[..., None].repeat(2, 2)
    values[0, 0] = (np.nan, np.inf)
    found = apply(ContrastConfig(percentiles=(0, 100)), values)
    assert np.isfinite(found).all() and found[0, 1, 0] < 1 and found[-1, -1, 0] == 255
    assert found[0, 0].tolist() == [0, 255]
    large = np.array([[[2**40], [2**40 + 100]]], dtype=np.int64)  # float32 holds no difference of 100 there
    assert apply(ContrastConfig(percentiles=(0, 100)), large)[..., 0].tolist() == [[0, 255]]
    assert (apply(ContrastConfig(), np.full((4, 4, 1), 7, np.uint16)) == 0).all()
    nothing = apply(ContrastConfig(), np.full((4, 4, 1), np.nan))
    assert (nothing == 0).all()
    with pytest.raises(ConfigError, match=r"percentiles \[99, 1\] must name two values, the lower first"):
        ContrastConfig(percentiles=(99, 1))
    with pytest.raises(ConfigError, match="percentiles must be in"):
        ContrastConfig(percentiles=(1, 101))


def test_one_and_four_channels_of_ordinary_files() -> None:
    bgra = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    four = decode_image(encode(".png", bgra), reading=ImageReading(channels=4))
    assert np.array_equal(four, bgra[..., [2, 1, 0, 3]])
    gray = decode_image(encode(".png", bgra[..., 0]), reading=ImageReading(channels=1))
    assert np.array_equal(gray, bgra[..., :1])
    equal = decode_image(encode(".png", bgra[..., :1].repeat(3, 2)), reading=ImageReading(channels=1))
    assert np.array_equal(equal, gray)
    with pytest.raises(DataError, match=r"has 3 channels, and data\.channels is 5; set data\.channels to 3"):
        decode_image(encode(".png", bgra[..., :3]), reading=ImageReading(channels=5))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_four_channels_as_three(orientation: int) -> None:
    import io

    import PIL.Image

    exif = PIL.Image.Exif()
    exif[274] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (8, 13, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", exif=exif)
    for exif_on in (True, False):
        three = decode_image(file.getvalue(), exif=exif_on)
        four = decode_image(file.getvalue(), exif=exif_on, reading=ImageReading(channels=4))
        assert np.array_equal(four[..., :3], three)
