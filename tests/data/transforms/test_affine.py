"""Any affine map: image, polygons, run lengths, boxes and keypoints stay together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.data.transforms.affine import Affine, TightenBoxes, about_middle, warp
from maskrcnn.data.transforms.moving import move, move_boxes
from maskrcnn.errors import ConfigError
from maskrcnn.structures import ImageInfo, InstanceMasks, RawSample, Targets, rle

HEIGHT, WIDTH = 150, 190


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def sample(channels: int = 3) -> RawSample:
    """Ellipses, as polygons and as RLE by turns, painted into the image; the last lies at the corner."""
    image = np.zeros((HEIGHT, WIDTH, channels), dtype=np.uint8)
    segmentations: list[Any] = []
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for k, (x, y, a, b) in enumerate(
        [(60, 50, 30, 18), (120, 90, 25, 32), (50, 110, 20, 12), (175, 20, 22, 30)]
    ):
        points = np.stack([x + a * np.cos(angles), y + b * np.sin(angles)], 1).clip(0, [WIDTH, HEIGHT])
        code = rle.from_polygons([points.reshape(-1)], HEIGHT, WIDTH)
        image[rle.decode(code) > 0] = 60 * (k + 1)
        segmentations.append(code if k % 2 else [points.reshape(-1).tolist()])
    masks = InstanceMasks.from_coco(segmentations, HEIGHT, WIDTH)
    keypoints = torch.tensor([[[60, 50, 2], [90, 50, 1]], [[120, 90, 2], [0, 0, 0]]] * 2, dtype=torch.float32)
    targets = Targets(masks.boxes(), torch.arange(4), masks, torch.arange(4) + 100, keypoints)
    info = ImageInfo(1, "a.png", HEIGHT, WIDTH)
    return RawSample(image, info, targets, targets.boxes, mirror=(1, 0))


def dense(bitmap: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The mask through ``matrix`` by the definition: each pixel asks where its centre came from."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inverse = np.linalg.inv(np.vstack((matrix, [0, 0, 1])))
    source = np.einsum("ij,jhw->ihw", inverse[:2, :2], np.stack((x, y))) + inverse[:2, 2, None, None]
    column, row = np.floor(source).astype(int)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    return np.where(inside, bitmap[row.clip(0, HEIGHT - 1), column.clip(0, WIDTH - 1)], 0)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


MAPS = {
    "turn": about_middle(HEIGHT, WIDTH, 33, 1, (0, 0), (0, 0)),
    "shear": about_middle(HEIGHT, WIDTH, 0, 1, (25, -10), (0, 0)),
    "all": about_middle(HEIGHT, WIDTH, -140, 1.3, (15, 5), (0.1, -0.2)),
    "small": about_middle(HEIGHT, WIDTH, 75, 0.7, (0, 0), (0.3, 0.3)),
}


@pytest.mark.parametrize("name", MAPS)
def test_masks_are_those_of_a_dense_warp(name: str) -> None:
    """Against a warp of the bitmaps, pixel by pixel: both kinds of masks, and the image that shows them."""
    before, matrix = sample(), MAPS[name]
    found = move(before, warp(before.image, matrix, (0, 0, 0)), matrix)
    masks = found.targets.masks
    assert masks is not None and before.targets.masks is not None
    for k, (mine, old) in enumerate(
        zip(masks.to_bitmaps().numpy(), before.targets.masks.to_bitmaps().numpy(), strict=True)
    ):
        theirs = dense(old, matrix)
        if theirs.sum() < 50:  # gone, or a sliver
            assert mine.sum() < 80
            continue
        assert iou(mine, theirs) > 0.93
        core = cv2.erode(mine, np.ones((5, 5), np.uint8), borderValue=0) > 0
        assert (found.image[core] == 60 * (k + 1)).all()


@pytest.mark.parametrize("name", MAPS)
def test_boxes_hold_the_masks_and_are_tight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskrcnn.data.transforms.affine.about_middle", lambda *_: MAPS[name])
    found = Affine()(sample(), rng())
    bitmaps = found.targets.masks.to_bitmaps().numpy()  # type: ignore[union-attr]
    assert len(found.targets)
    for bitmap, box in zip(bitmaps, found.targets.boxes.tolist(), strict=True):
        if bitmap.sum() < 50:  # ends of a sliver are thinner than a pixel
            continue
        rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
        assert np.abs(np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) - box).max() <= 1.5
    # Proposals have no masks: they are the boxes around the moved corners, inside the frame.
    assert found.proposals is not None and (found.proposals[:, 2:] <= torch.tensor([WIDTH, HEIGHT])).all()
    around = move_boxes(sample().targets.boxes[:1], MAPS[name])[0]
    corners = np.array([[x, y, 1] for x in (30, 90) for y in (32, 68)]) @ MAPS[name].T
    assert np.allclose(around, [*corners.min(0), *corners.max(0)], atol=0.01)


def test_without_masks_boxes_are_those_around_the_moved_ones() -> None:
    before = sample()
    before = replace(before, targets=replace(before.targets, masks=None))
    found = Affine(rotate=(90, 90), min_side=0)(before, rng())
    x, y = WIDTH / 2, HEIGHT / 2  # the first box about the middle: (30, 32, 90, 68)
    assert np.allclose(found.targets.boxes[0], [x + 32 - y, y + x - 90, x + 68 - y, y + x - 30], atol=1e-4)


def test_keypoints_turn_with_the_image() -> None:
    found = Affine(rotate=(180, 180))(sample(), rng())
    keypoints = found.targets.keypoints
    assert keypoints is not None
    assert np.allclose(keypoints[0], [[WIDTH - 60, HEIGHT - 50, 2], [WIDTH - 90, HEIGHT - 50, 1]], atol=1e-3)
    assert keypoints[1, 1].tolist() == [0, 0, 0]  # not labelled, so nowhere
    gone = Affine(rotate=(0, 0), translate=1.0)(sample(), rng(1)).targets.keypoints
    assert gone is not None and (gone[gone[..., 2] == 0] == 0).all()


def test_a_quarter_turn_is_that_of_rotate90() -> None:
    """On a square, where the frame keeps its shape: image, boxes and masks are those of an exact turn."""
    square = np.zeros((40, 40, 3), dtype=np.uint8)
    square[5:12, 8:30] = 200
    masks = InstanceMasks.from_coco([[[8, 5, 30, 5, 30, 12, 8, 12]]], 40, 40)
    targets = Targets(masks.boxes(), torch.tensor([0]), masks, torch.tensor([1]))
    before = RawSample(square, ImageInfo(1, "a", 40, 40), targets)
    found = Affine(rotate=(90, 90))(before, rng())
    assert np.array_equal(found.image, np.rot90(square))
    assert np.allclose(found.targets.boxes, [[5, 10, 12, 32]], atol=1e-4)
    assert np.array_equal(found.targets.masks.to_bitmaps()[0], np.rot90(square[..., 0] > 0))  # type: ignore[union-attr]


def test_the_identity_changes_nothing() -> None:
    before = sample()
    assert Affine(rotate=(0, 0))(before, rng()) is before
    found = move(
        before, warp(before.image, MAPS["turn"] * 0 + [[1, 0, 0], [0, 1, 0]], (9, 9, 9)), np.eye(2, 3)
    )
    assert np.array_equal(found.image, before.image)
    assert torch.equal(found.targets.boxes, before.targets.boxes)


def test_equal_draws_give_equal_bits_and_others_differ() -> None:
    affine = Affine(scale=(0.8, 1.2), shear=(-10, 10), translate=0.1)
    a, b, c = (affine(sample(), rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(a.image, b.image) and torch.equal(a.targets.boxes, b.targets.boxes)
    assert not np.array_equal(a.image, c.image)


def test_what_leaves_the_frame_is_dropped_and_the_outside_filled() -> None:
    found = Affine(rotate=(0, 0), scale=(0.5, 0.5), fill=(1, 2, 3))(sample(), rng())
    assert found.image[0, 0].tolist() == [1, 2, 3]
    assert len(found.targets) == 4
    large = Affine(rotate=(0, 0), scale=(4, 4))(sample(), rng())
    assert 0 < len(large.targets) < 4
    assert (large.targets.boxes >= 0).all()
    # Any number of channels: each is filled with the mean of the three.
    for channels in (1, 5):
        deep = Affine(rotate=(45, 45), fill=(1, 2, 3))(sample(channels), rng())
        assert deep.image.shape == (HEIGHT, WIDTH, channels)
        assert (deep.image[0, 0] == 2).all()
        assert np.array_equal(
            deep.image[..., 0], Affine(rotate=(45, 45), fill=(2, 2, 2))(sample(), rng()).image[..., 0]
        )


def test_an_image_without_instances_turns() -> None:
    before = sample()
    empty = replace(before, targets=before.targets.select(torch.zeros(4, dtype=torch.bool)))
    found = Affine()(empty, rng())
    assert found.targets.boxes.shape == (0, 4) and len(found.targets) == 0
    assert TightenBoxes()(empty, rng()).targets.boxes.shape == (0, 4)


def test_boxes_are_tightened_to_their_masks() -> None:
    before = sample()
    wide = replace(
        before, targets=replace(before.targets, boxes=before.targets.boxes + torch.tensor([-9, -9, 9, 9]))
    )
    assert torch.equal(TightenBoxes()(wide, rng()).targets.boxes, before.targets.boxes)
    without = replace(wide, targets=replace(wide.targets, masks=None))
    assert TightenBoxes()(without, rng()) is without


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotate": (10, -10)}, r"rotate \[10, -10\] must name the least first: \[-10, 10\]"),
        ({"shear": (0, 80)}, r"shear must be in \[-40, 40\], got 80"),
        ({"scale": (0, 1)}, "scale must be > 0"),
        ({"translate": 2}, "translate must be"),
        ({"fill": (0, 0, 300)}, "fill must be"),
    ],
)
def test_senseless_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Affine(**values)
