"""The three ways to scale pixels: PIL's to a level, OpenCV's as ever, and no other boxes and masks."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch

from maskrcnn.data import TRANSFORMS, RawSample
from maskrcnn.data.transforms.moving import resample
from maskrcnn.structures import ImageInfo, InstanceMasks, Targets

SIZES = [(20, 30), (41, 61), (13, 90), (80, 17), (160, 240), (1, 1)]


def noise(kind: type = np.uint8) -> npt.NDArray[np.generic]:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3))
    image[::3] = image[::3] // 255 * 255
    return image.astype(kind)


def pil(image: npt.NDArray[np.generic], height: int, width: int) -> npt.NDArray[np.float64]:
    """PIL's bilinear, channel by channel."""
    channels = [PIL.Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(3)]
    bilinear = PIL.Image.Resampling.BILINEAR
    return np.stack([np.asarray(c.resize((width, height), bilinear), dtype=np.float64) for c in channels], -1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_antialias_is_pils_bilinear_to_a_level(size: tuple[int, int], kind: type) -> None:
    image = noise(kind)
    found = resample(image, *size, "antialias")
    assert (found.dtype, found.shape, found.flags.writeable) == (np.dtype(kind), (*size, 3), True)
    difference = np.abs(found - pil(image, *size)).max()
    assert difference <= (1 if kind is np.uint8 else 1e-3)
    if kind is np.uint8 and (size[0] < 40 or size[1] < 60):
        assert difference == 0


def test_antialias_counts_every_pixel_and_linear_skips_some() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[::4] = 240  # a row in four, which linear at a quarter of the size never reads
    assert resample(image, 10, 10, "linear").max() == 0
    assert np.abs(resample(image, 10, 10, "antialias").astype(int)[1:-1] - 60).max() <= 15


@pytest.mark.parametrize("size", SIZES)
def test_linear_and_area_are_opencvs(size: tuple[int, int]) -> None:
    image = noise()
    linear = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resample(image, *size, "linear"), linear)
    shrinks = size[0] < 40 and size[1] < 60
    area = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) if shrinks else linear
    assert np.array_equal(resample(image, *size, "area"), area)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("resize", {"height": 20, "width": 31}),
        ("resize_longest", {"size": 30}),
        ("resize_shortest_edge", {"min_sizes": (20,), "max_size": 40}),
        ("large_scale_jitter", {"size": (30, 30), "min_scale": 0.3, "max_scale": 0.9}),
    ],
)
def test_only_the_pixels_depend_on_it(kind: str, keys: dict[str, object]) -> None:
    boxes = torch.tensor([[8.0, 8, 40, 30]])
    masks = InstanceMasks.from_coco([[[8, 8, 40, 8, 40, 30, 8, 30]]], 40, 60)
    targets = Targets(boxes, torch.zeros(1, dtype=torch.int64), masks, torch.ones(1, dtype=torch.int64))
    raw = RawSample(noise(), ImageInfo(1, "a.png", 40, 60), targets)
    config = TRANSFORMS.get(kind)
    results = {
        how: config(**keys, resample=how)(raw, np.random.default_rng(0))  # type: ignore[call-arg]
        for how in ("linear", "area", "antialias")
    }
    default = config(**keys)(raw, np.random.default_rng(0))
    assert np.array_equal(default.image, results["linear"].image)
    assert not np.array_equal(results["antialias"].image, results["linear"].image)
    assert not np.array_equal(results["antialias"].image, results["area"].image)
    for how in ("area", "antialias"):
        assert results[how].targets.boxes.equal(default.targets.boxes)
        assert results[how].targets.masks is not None and default.targets.masks is not None
        assert results[how].targets.masks.boxes().equal(default.targets.masks.boxes())
