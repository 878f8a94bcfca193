"""Changes of values: by hand, of any number of channels, of bytes and of floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.data import TRANSFORMS
from maskrcnn.data.transforms.colour import Blur, Brightness, Contrast, Gamma, Gray, Invert, Noise
from maskrcnn.errors import ConfigError
from maskrcnn.structures import ImageInfo, RawSample
from tests.data.transforms.test_affine import rng, sample

NAMES = ("blur", "brightness", "contrast", "gamma", "gray", "invert", "noise")


def of(image: Any) -> RawSample:
    """A sample of these pixels."""
    pixels = np.asarray(image)
    return RawSample(pixels, ImageInfo(1, "a", *pixels.shape[:2]), sample().targets)


def test_by_hand() -> None:
    pixels = np.array([[[0, 100, 200]]], dtype=np.uint8)
    assert Brightness((1.5, 1.5))(of(pixels), rng()).image.tolist() == [[[0, 150, 255]]]
    assert Contrast((0.5, 0.5))(of(pixels), rng()).image.tolist() == [[[50, 100, 150]]]
    assert Gamma((2, 2))(of(pixels), rng()).image.tolist() == [[[0, 39, 157]]]  # 100^2/255, 200^2/255
    assert Invert(1.0)(of(pixels), rng()).image.tolist() == [[[255, 155, 55]]]
    assert Gray(1.0)(of(pixels), rng()).image.tolist() == [
        [[82, 82, 82]]
    ]  # 0.587 x 100 + 0.114 x 200, rounded
    two = np.array([[[10, 20]]], dtype=np.float32)
    assert Gray(1.0)(of(two), rng()).image.tolist() == [[[15, 15]]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_bytes_and_floats_agree(name: str, channels: int) -> None:
    pixels = rng().integers(0, 256, (20, 30, channels), dtype=np.uint8)
    change = TRANSFORMS.make(name, p=1.0)
    deep, flat = change(of(pixels.astype(np.float32)), rng(3)).image, change(of(pixels), rng(3)).image
    assert (deep.dtype, flat.dtype) == (np.float32, np.uint8)
    assert deep.shape == flat.shape == pixels.shape
    assert np.abs(deep - flat).max() <= 0.5 + 1e-3
    assert deep.min() >= 0 and deep.max() <= 255
    if name != "gray" or channels > 1:  # gray stays gray
        assert not np.array_equal(flat, pixels)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_moves_and_equal_draws_give_equal_bits(name: str) -> None:
    change, before = TRANSFORMS.make(name, p=0.5), sample()
    assert change.resizes_only is True  # type: ignore[attr-defined]
    for seed in range(4):
        a, b = change(before, rng(seed)), change(sample(), rng(seed))
        assert a.targets is before.targets
        assert np.array_equal(a.image, b.image)
    never = TRANSFORMS.make(name, p=0.0)
    assert never(before, rng()) is before


def test_neutral_values_change_nothing() -> None:
    before = of(rng().integers(0, 256, (20, 30, 4), dtype=np.uint8))
    for change in (
        Brightness((1, 1)),
        Contrast((1, 1)),
        Gamma((1, 1)),
        Blur((0, 0), 1.0),
        Noise((0, 0), 1.0),
    ):
        assert np.array_equal(change(before, rng()).image, before.image)


def test_blur_and_noise_are_as_strong_as_said() -> None:
    point = np.zeros((41, 41, 3), dtype=np.float32)
    point[20, 20] = 255
    blurred = Blur((3, 3), 1.0)(of(point), rng()).image[..., 0]
    spread = np.sqrt((blurred.sum(0) * (np.arange(41) - 20) ** 2).sum() / blurred.sum())
    assert spread == pytest.approx(3, rel=0.02)
    gray = np.full((200, 200, 3), 128, dtype=np.float32)
    assert Noise((7, 7), 1.0)(of(gray), rng()).image.std() == pytest.approx(7, rel=0.02)


def test_ends_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gamma \[2, 1\] must name the least first: \[1, 2\]"):
        Gamma((2, 1))
    with pytest.raises(ConfigError, match="factor must be >= 0"):
        Brightness((-1, 1))
