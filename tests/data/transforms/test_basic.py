"""Boxes and masks follow the image exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.data import TRANSFORMS, RawSample, apply_transforms
from maskrcnn.data.transforms.basic import ColorJitter, HorizontalFlip, RandomCrop, Rotate90, VerticalFlip
from maskrcnn.data.transforms.jitter import LargeScaleJitter
from maskrcnn.data.transforms.moving import crop_to
from maskrcnn.data.transforms.pipelines import PipelineStep
from maskrcnn.data.transforms.resizing import Resize, ResizeLongest, ResizeShortestEdge
from maskrcnn.errors import ConfigError
from maskrcnn.structures import ImageInfo, InstanceMasks, Targets, rle
from tests.data.transforms.libraries import needs_albumentations

HEIGHT, WIDTH = 40, 64


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def sample() -> RawSample:
    """Rectangles of pixels, painted as they are masked, as polygons and as RLE."""
    rectangles = [(8, 8, 24, 20), (40, 12, 64, 40), (0, 0, 4, 8), (30, 24, 38, 36)]
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    segmentations: list[Any] = []
    for k, (x1, y1, x2, y2) in enumerate(rectangles):
        image[y1:y2, x1:x2] = 60 * (k + 1)
        if k % 2:
            bitmap = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
            bitmap[y1:y2, x1:x2] = 1
            segmentations.append(rle.encode(bitmap))
        else:
            segmentations.append([[x1, y1, x2, y1, x2, y2, x1, y2]])
    boxes = torch.tensor(rectangles, dtype=torch.float32)
    masks = InstanceMasks.from_coco(segmentations, HEIGHT, WIDTH)
    targets = Targets(boxes, torch.arange(4), masks, torch.arange(4) + 100)
    return RawSample(image, ImageInfo(1, "a.png", HEIGHT, WIDTH), targets)


def assert_consistent(found: RawSample, tolerance: float = 1e-5) -> None:
    """The image shows each instance's gray exactly where its mask is; masks agree with boxes.

    Pixels within 3 of an edge are left out, since resizing blends there.
    """
    masks = found.targets.masks
    assert masks is not None
    assert (masks.height, masks.width) == found.size
    assert (masks.boxes() - found.targets.boxes).abs().max() <= tolerance
    painted = np.zeros(found.size, dtype=np.uint8)
    for bitmap, label in zip(masks.to_bitmaps().numpy(), found.targets.labels.tolist(), strict=True):
        painted[bitmap > 0] = 60 * (label + 1)
    kernel = np.ones((7, 7), dtype=np.uint8)
    clear = cv2.erode(painted, kernel) == cv2.dilate(painted, kernel)
    clear[:3] = clear[-3:] = clear[:, :3] = clear[:, -3:] = False  # a crop may end at an edge
    assert clear.mean() > 0.1
    assert (found.image[clear] == painted[clear][:, None]).all()


@pytest.mark.parametrize(
    "transform",
    [
        HorizontalFlip(1.0),
        VerticalFlip(1.0),
        Rotate90(1.0),
        Resize(80, 128),
        Resize(80, 64),
        ResizeShortestEdge((120,), 1000),
        ResizeLongest(32),
        RandomCrop(32, 48),
        RandomCrop(400, 400),
        LargeScaleJitter((80, 128), 1.0, 1.0),
    ],
    ids=lambda t: repr(t)[:40],
)
def test_image_boxes_and_masks_move_together(transform: Any) -> None:
    for seed in range(4):
        before = sample()
        found = transform(before, rng(seed))
        assert_consistent(found)
        assert found.info == before.info
        assert_consistent(before)  # the input is left alone


def test_all_at_once() -> None:
    chain = [HorizontalFlip(0.5), Rotate90(0.75), Resize(128, 160), RandomCrop(100, 100), VerticalFlip(0.5)]
    for seed in range(10):
        assert_consistent(apply_transforms(chain, sample(), rng(seed)), 1e-4)


def test_flips_by_hand() -> None:
    flipped = HorizontalFlip(1.0)(sample(), rng())
    assert flipped.targets.boxes[0].tolist() == [WIDTH - 24, 8, WIDTH - 8, 20]
    assert (flipped.image == sample().image[:, ::-1]).all()
    flipped = VerticalFlip(1.0)(sample(), rng())
    assert flipped.targets.boxes[0].tolist() == [8, HEIGHT - 20, 24, HEIGHT - 8]
    same = HorizontalFlip(0.0)(sample(), rng())
    assert (same.image == sample().image).all()


def test_rotation_reaches_every_direction() -> None:
    seen = {k for seed in range(30) for k in range(4) if is_turn(Rotate90()(sample(), rng(seed)).image, k)}
    assert seen == {0, 1, 2, 3}


def is_turn(image: np.ndarray, turns: int) -> bool:
    return np.array_equal(image, np.rot90(sample().image, turns))


# Sizes as Detectron2's ResizeShortestEdge.get_output_shape gives them, computed by its formula by hand:
# (480, 640) to 800: 800 x 1066.67 -> 1067; (427, 640): 800 x 1199.06 -> 1199;
# (500, 1200): 800 x 1920, capped by 1333 / 1920 -> 555.4 x 1333 -> 555;
# (333, 500) to 640: 640 x 960.96 -> 961.
@pytest.mark.parametrize(
    ("size", "shortest", "expected"),
    [
        ((480, 640), 800, (800, 1067)),
        ((640, 480), 800, (1067, 800)),
        ((427, 640), 800, (800, 1199)),
        ((500, 1200), 800, (555, 1333)),
        ((1200, 500), 800, (1333, 555)),
        ((333, 500), 640, (640, 961)),
        ((500, 500), 800, (800, 800)),
        ((1, 5000), 800, (1, 1333)),
    ],
)
def test_shortest_edge_rounds_as_detectron2(
    size: tuple[int, int], shortest: int, expected: tuple[int, int]
) -> None:
    assert ResizeShortestEdge((shortest,), 1333).output_size(*size, shortest) == expected


def test_floor_rounds_as_torchvision() -> None:
    # torchvision's resize: floor(side * min(min_size / shorter, max_size / longer)).
    resize = ResizeShortestEdge((800,), 1333, rounding="floor")
    assert resize.output_size(480, 640, 800) == (800, 1066)
    assert resize.output_size(500, 1200, 800) == (555, 1333)


def test_multi_scale_draws_every_length_and_no_other() -> None:
    choice = ResizeShortestEdge((20, 24, 30), 1000)
    assert {choice(sample(), rng(s)).size[0] for s in range(40)} == {20, 24, 30}
    span = ResizeShortestEdge((20, 23), 1000, sample="range")
    assert {span(sample(), rng(s)).size[0] for s in range(60)} == {20, 21, 22, 23}


def test_crop_cuts_boxes_to_what_is_left_of_the_mask() -> None:
    masks = InstanceMasks.from_coco([[[0, 20, 40, 0, 40, 40]], [[50, 0, 60, 0, 60, 10]]], HEIGHT, WIDTH)
    targets = Targets(masks.boxes(), torch.tensor([1, 2]), masks, torch.tensor([7, 8]))
    whole = RawSample(np.zeros((HEIGHT, WIDTH, 3), np.uint8), ImageInfo(1, "a", HEIGHT, WIDTH), targets)
    cut = crop_to(whole, 0, 0, 20, 40, min_side=1)
    # The triangle is 20 high where it is cut at x = 20; the other instance is gone.
    assert torch.allclose(cut.targets.boxes, torch.tensor([[0.0, 10, 20, 30]]))
    assert cut.targets.annotation_ids.tolist() == [7]
    assert cut.targets.masks is not None
    assert len(cut.targets.masks) == 1
    without = RawSample(whole.image, whole.info, Targets(masks.boxes(), targets.labels, None, targets.labels))
    assert crop_to(without, 0, 0, 20, 40, min_side=1).targets.boxes.tolist() == [[0, 0, 20, 40]]
    # A sliver of half a pixel: dropped, or kept on request.
    assert len(crop_to(whole, 0, 0, 51, 40, min_side=1.5).targets) == 1
    assert len(crop_to(whole, 0, 0, 51, 40, min_side=0.5).targets) == 2


def test_an_image_without_instances_passes_everything() -> None:
    empty = sample()
    empty = RawSample(empty.image, empty.info, empty.targets.select(torch.zeros(4, dtype=torch.bool)))
    chain = [
        HorizontalFlip(1.0),
        VerticalFlip(1.0),
        Rotate90(1.0),
        ResizeShortestEdge((30,), 100),
        LargeScaleJitter((40, 40), 0.5, 2),
        RandomCrop(20, 20),
        ColorJitter(0.5, 0.5, 0.5),
    ]
    found = apply_transforms(chain, empty, rng())
    assert found.targets.boxes.shape == (0, 4)
    assert found.to_sample().image.shape == (3, *found.size)


def test_colour_changes_colour_alone() -> None:
    before = sample()
    assert (ColorJitter(0, 0, 0)(before, rng()).image == before.image).all()
    found = ColorJitter(0.4, 0.4, 0.4)(before, rng())
    assert found.image.dtype == np.uint8
    assert (found.image != before.image).any()
    assert found.targets is before.targets
    # Brightness alone is a factor.
    deep = RawSample(before.image.astype(np.float32) / 2 + 0.25, before.info, before.targets)
    bright = ColorJitter(0.2, 0, 0)(deep, rng(3)).image
    assert bright.dtype == np.float32
    ratio = bright / deep.image
    assert np.ptp(ratio) < 1e-4
    assert 0.8 <= ratio.mean() <= 1.2
    # Without saturation gray pixels stay gray.
    assert np.ptp(found.image.astype(int), axis=2).max() == 0


def test_float_images_resize_too() -> None:
    before = sample()
    deep = RawSample(before.image.astype(np.float32), before.info, before.targets)
    assert Resize(80, 128)(deep, rng()).image.dtype == np.float32


#: What transforms without a default for everything are built with.
NEEDED: dict[str, dict[str, Any]] = {
    # A turn would draw boxes tight to masks, and proposals around what was turned.
    "affine": {"rotate": (0.0, 0.0), "scale": (0.7, 1.4), "translate": 0.2, "min_side": 0.0},
    "albumentations": {"pipeline": (PipelineStep(name="HorizontalFlip"),)},
    "torchvision_v2": {"pipeline": (PipelineStep(name="ColorJitter", options={"brightness": 0.3}),)},
    "resize": {"height": 50, "width": 60},
    "resize_longest": {"size": 50},
    "random_crop": {"height": 20, "width": 20},
}


HAVE = [
    pytest.param(name, marks=needs_albumentations) if name == "albumentations" else name
    for name in TRANSFORMS.names()
]


@pytest.mark.parametrize("name", HAVE)
def test_proposals_move_with_the_image(name: str) -> None:
    """Rectangles are their own proposals, also where a crop cuts them, turns them or leaves them out."""
    transform = TRANSFORMS.get(name)(**NEEDED.get(name, {}))  # type: ignore[call-arg]
    for seed in range(6):
        before = sample()
        found = transform(replace(before, proposals=before.targets.boxes), rng(seed))
        assert found.proposals is not None
        assert found.proposals.dtype == torch.float32
        assert torch.allclose(found.proposals, found.targets.boxes, atol=1e-4)
        assert found.to_sample().proposals is found.proposals
        assert transform(before, rng(seed)).proposals is None


def test_proposals_are_cut_to_the_image() -> None:
    whole = replace(sample(), proposals=torch.tensor([[-5.0, 4, 20, 30], [50, 10, 70, 50], [22, 0, 40, 9]]))
    cut = crop_to(whole, 10, 5, 20, 20, min_side=1).proposals
    assert cut is not None
    assert cut.tolist() == [[0, 0, 10, 20], [12, 0, 20, 4]]  # the second lies outside the window
    empty = crop_to(whole, 0, 35, 5, 5, min_side=1).proposals
    assert empty is not None and empty.shape == (0, 4)


@pytest.mark.parametrize("name", HAVE)
def test_every_transform_builds_and_is_pure(name: str) -> None:
    transform = TRANSFORMS.get(name)(**NEEDED.get(name, {}))  # type: ignore[call-arg]
    a, b = transform(sample(), rng(5)), transform(sample(), rng(5))
    assert np.array_equal(a.image, b.image)
    assert torch.equal(a.targets.boxes, b.targets.boxes)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("hflip", {"p": 1.5}, r"p must be in \[0, 1\], got 1.5"),
        ("rotate90", {"p": -0.1}, r"in \[0, 1\]"),
        ("resize_shortest_edge", {"min_sizes": ()}, "at least one"),
        ("resize_shortest_edge", {"min_sizes": (5, 4), "sample": "range"}, "smallest, largest"),
        ("resize_longest", {"size": 0}, "size must be >= 1"),
        ("large_scale_jitter", {"min_scale": 0.0}, "min_scale must be > 0"),
        ("large_scale_jitter", {"min_scale": 3.0}, "min_scale 3.0 must not be greater than max_scale 2.0"),
        ("large_scale_jitter", {"pad_value": (0, 0, 256)}, r"pad_value must be in \[0, 255\], got 256"),
        ("random_crop", {"height": 0, "width": 4}, "height must be > 0"),
        ("color_jitter", {"contrast": 2.0}, "contrast must be"),
    ],
)
def test_senseless_values_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TRANSFORMS.get(name)(**values)
