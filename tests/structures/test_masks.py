"""Instance masks: transforms are exact, and each target mode equals its peer's."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from maskrcnn.structures import InstanceMasks, clip_boxes, rle

HEIGHT, WIDTH = 60, 80


def polygon(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> list[float]:
    angles = np.sort(rng.random(9)) * 2 * np.pi
    radii = radius * (0.4 + 0.6 * rng.random(9))
    points = np.stack([radii * np.cos(angles) + centre[0], radii * np.sin(angles) + centre[1]], 1)
    return [round(float(v), 2) for v in points.reshape(-1)]


def blob(rng: np.random.Generator, x: int, y: int, side: int) -> dict[str, Any]:
    bitmap = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    bitmap[y : y + side, x : x + side] = np.kron(rng.random((side // 4, side // 4)) < 0.6, np.ones((4, 4)))
    bitmap[y, x] = 1
    code = rle.encode(bitmap)
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}


@pytest.fixture
def segmentations() -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        [polygon(rng, (20, 20), 12)],
        [polygon(rng, (50, 40), 15), polygon(rng, (70, 50), 9)],  # in two parts
        blob(rng, 30, 8, 24),
        [[-4.5, 40, 12, 45, 6.5, 63.25, -2, 58]],  # over the left and bottom edges
        blob(rng, 0, 0, 12),  # at the corner
        blob(rng, WIDTH - 16, HEIGHT - 16, 16),
    ]


@pytest.fixture
def masks(segmentations: list[Any]) -> InstanceMasks:
    return InstanceMasks.from_coco(segmentations, HEIGHT, WIDTH)


@pytest.fixture
def bitmaps(segmentations: list[Any]) -> Tensor:
    """Drawn by pycocotools' public functions alone."""
    drawn = []
    for s in segmentations:
        codes = coco_mask.frPyObjects(s, HEIGHT, WIDTH) if isinstance(s, list) else s
        drawn.append(coco_mask.decode(coco_mask.merge(codes) if isinstance(codes, list) else codes))
    return torch.from_numpy(np.stack(drawn))


def jittered(masks: InstanceMasks, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Boxes near the instances' own, inside the image, three an instance."""
    rng = np.random.default_rng(1)
    index = torch.arange(len(masks)).repeat(3)
    boxes = masks.boxes()[index].double() + torch.from_numpy(rng.normal(size=(len(index), 4)) * 3)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1.5)
    return clip_boxes(boxes, masks.height, masks.width).to(dtype), index


def test_bitmaps_and_codes_are_those_of_pycocotools(masks: InstanceMasks, bitmaps: Tensor) -> None:
    assert torch.equal(masks.to_bitmaps(), bitmaps)
    for code, bitmap in zip(masks.to_rles(), bitmaps.numpy(), strict=True):
        assert (coco_mask.decode(code) == bitmap).all()


@pytest.mark.parametrize("size", [7, 28])
def test_bitmask_is_torchvisions_target(masks: InstanceMasks, bitmaps: Tensor, size: int) -> None:
    boxes, index = jittered(masks)
    found = masks.crop_and_resize(boxes, index, size, "bitmask")
    assert found.dtype == torch.float64
    wanted = project_masks_on_boxes(bitmaps.double(), boxes, index, size)
    assert (found - wanted).abs().max() < 1e-10
    assert 0.05 < wanted.mean() < 0.95
    single = masks.crop_and_resize(boxes.float(), index, size, "bitmask")
    assert single.dtype == torch.float32
    assert (single - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("size", [7, 28])
def test_bitmask_hard_is_detectron2s_target(masks: InstanceMasks, bitmaps: Tensor, size: int) -> None:
    # BitMasks.crop_and_resize: ROIAlign(size, 1.0, 0, aligned=True) of the bitmaps, then >= 0.5.
    boxes, index = jittered(masks)
    rois = torch.cat([index[:, None].double(), boxes], dim=1)
    values = roi_align(bitmaps[:, None].double(), rois, (size, size), 1.0, 0, True)[:, 0]
    found = masks.crop_and_resize(boxes, index, size, "bitmask_hard")
    clear = (values - 0.5).abs() > 1e-9
    assert clear.double().mean() > 0.95
    assert torch.equal(found[clear], (values >= 0.5).double()[clear])


@pytest.mark.parametrize("size", [14, 28])
def test_polygon_is_detectron2s_target(segmentations: list[Any], masks: InstanceMasks, size: int) -> None:
    # rasterize_polygons_within_box: move by the corner, scale by size / max(side, 0.1), draw.
    boxes, index = jittered(masks, torch.float32)
    found = masks.crop_and_resize(boxes, index, size, "polygon")
    assert found.dtype == torch.float32
    seen = 0
    for target, box, i in zip(found, boxes.double().numpy(), index.tolist(), strict=True):
        if isinstance(segmentations[i], dict):
            continue
        scale = size / np.maximum(box[2:] - box[:2], 0.1)
        parts = [((np.reshape(p, (-1, 2)) - box[:2]) * scale).reshape(-1).tolist() for p in segmentations[i]]
        wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, size, size)))
        assert (target.numpy() == wanted).all()
        seen += 1
    assert seen == 9


def test_polygon_mode_reads_rle_as_bitmask_hard(masks: InstanceMasks) -> None:
    boxes, index = jittered(masks)
    a = masks.crop_and_resize(boxes, index, 28, "polygon")
    b = masks.crop_and_resize(boxes, index, 28, "bitmask_hard")
    is_rle = torch.tensor([not masks.is_polygon(i) for i in index.tolist()])
    assert is_rle.sum() == 9
    assert torch.equal(a[is_rle], b[is_rle])
    # And for polygons the two ways differ at edges alone.
    assert (a != b).double().mean() < 0.05


Turn = tuple[Callable[[InstanceMasks], InstanceMasks], Callable[[Tensor], Tensor]]
TURNS: dict[str, Turn] = {
    "hflip": (lambda m: m.hflip(WIDTH), lambda b: b.flip(2)),
    "vflip": (lambda m: m.vflip(HEIGHT), lambda b: b.flip(1)),
    "rotate 1": (lambda m: m.rotate90(1), lambda b: b.rot90(1, (1, 2))),
    "rotate 2": (lambda m: m.rotate90(2), lambda b: b.rot90(2, (1, 2))),
    "rotate 3": (lambda m: m.rotate90(3), lambda b: b.rot90(3, (1, 2))),
    "crop": (lambda m: m.translate_crop(10, 5, 50, 40), lambda b: b[:, 5:45, 10:60]),
    "hflip, crop, rotate": (
        lambda m: m.hflip(WIDTH).translate_crop(3, 2, 70, 50).rotate90(1),
        lambda b: b.flip(2)[:, 2:52, 3:73].rot90(1, (1, 2)),
    ),
}


@pytest.mark.parametrize("name", TURNS)
def test_turned_rle_masks_are_the_turned_bitmaps(masks: InstanceMasks, bitmaps: Tensor, name: str) -> None:
    turn, expected = TURNS[name]
    rows = [2, 4, 5]
    turned, wanted = turn(masks.select(rows)), expected(bitmaps[rows])
    assert (turned.height, turned.width) == tuple(wanted.shape[1:])
    assert torch.equal(turned.to_bitmaps(), wanted)
    for code, bitmap in zip(turned.to_rles(), wanted.numpy(), strict=True):
        assert (coco_mask.decode(code) == bitmap).all()
    for box, bitmap in zip(turned.boxes().tolist(), wanted.numpy(), strict=True):
        y, x = np.nonzero(bitmap)
        assert box == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])
    boxes, index = jittered(turned)
    direct = project_masks_on_boxes(wanted.double(), boxes, index, 14)
    whole = (turned.boxes() != torch.tensor([0, 0, turned.width, turned.height])).all(1)[index]
    # A crop sees beyond its edge; away from it, reading in the stored frame is reading the turned bitmap.
    near = (turned.crop_and_resize(boxes, index, 14, "bitmask") - direct).abs()[whole]
    assert near.numel() == 0 or near.max() < 1e-9


@pytest.mark.parametrize("name", TURNS)
def test_turned_polygons_stay_near_the_turned_bitmaps(
    masks: InstanceMasks, bitmaps: Tensor, name: str
) -> None:
    turn, expected = TURNS[name]
    rows = [0, 1, 3]
    turned, wanted = turn(masks.select(rows)).to_bitmaps(), expected(bitmaps[rows])
    # Drawing is not symmetric to the pixel, but a misplaced frame would cost far more.
    union = ((turned + wanted) > 0).sum((1, 2))
    both = (turned * wanted).sum((1, 2))
    assert (both >= 0.9 * union).all()


def test_vertices_move_exactly(masks: InstanceMasks, segmentations: list[Any]) -> None:
    moved = masks.resize(2.0, 1.5).hflip(2 * WIDTH).translate_crop(4, 6, 100, 60)
    x, y = np.reshape(segmentations[1][1], (-1, 2)).T
    assert np.allclose(moved.polygons(1)[1], np.stack([2 * WIDTH - 2 * x - 4, 1.5 * y - 6], 1), atol=1e-12)
    assert (moved.height, moved.width) == (60, 100)
    assert moved.polygons(2) == []


@pytest.mark.parametrize("mode", ["polygon", "bitmask_hard"])
def test_targets_do_not_depend_on_the_scale_of_the_frame(segmentations: list[Any], mode: Any) -> None:
    masks = InstanceMasks.from_coco([segmentations[i] for i in (0, 1, 2, 4)], HEIGHT, WIDTH)
    if mode == "bitmask_hard":
        masks = masks.select([2, 3])
    boxes, index = jittered(masks)
    large = masks.resize(2.0, 4.0).crop_and_resize(boxes * torch.tensor([2.0, 4, 2, 4]), index, 28, mode)
    assert torch.equal(large, masks.crop_and_resize(boxes, index, 28, mode))


def test_not_aligned_is_aligned_half_a_pixel_on_whatever_the_scale(masks: InstanceMasks) -> None:
    """Not aligned, the index x stands for the point x + 0.5 of the current frame, not of the stored one."""
    large = masks.select([2, 4, 5]).resize(2.0, 4.0)
    boxes, index = jittered(large)
    soft = large.crop_and_resize(boxes, index, 14, "bitmask")
    hard = large.crop_and_resize(boxes + 0.5, index, 14, "bitmask_hard")
    clear = (soft - 0.5).abs() > 1e-9
    assert clear.double().mean() > 0.9
    assert torch.equal((soft >= 0.5)[clear], hard[clear] > 0)


def test_boxes_and_areas(masks: InstanceMasks, segmentations: list[Any], bitmaps: Tensor) -> None:
    boxes, areas = masks.boxes(), masks.areas()
    points = np.reshape(segmentations[1][0] + segmentations[1][1], (-1, 2))
    assert np.allclose(boxes[1].numpy(), [*points.min(0), *points.max(0)], atol=1e-5)
    # Cut at the edges: the top is where the line from (-4.5, 40) to (12, 45) enters.
    assert torch.allclose(boxes[3], torch.tensor([0, 40 + 5 * 4.5 / 16.5, 12, HEIGHT]))
    assert areas[2] == bitmaps[2].sum()
    assert masks.resize(2, 3).areas()[2] == 6 * bitmaps[2].sum()
    square = InstanceMasks.from_coco([[[0, 0, 4, 0, 4, 3, 0, 3]]], 10, 10)
    assert square.areas().tolist() == [12.0]


def test_boxes_after_a_crop_are_those_of_what_is_left() -> None:
    # A triangle with a corner at x = 0; its part right of x = 6 is narrower than its box is there.
    masks = InstanceMasks.from_coco([[[0, 5, 10, 0, 10, 10]], [[0, 0, 2, 0, 2, 2]]], 10, 10)
    left = masks.translate_crop(0, 0, 6, 10).boxes()
    assert torch.allclose(left[0], torch.tensor([0.0, 2.0, 6.0, 8.0]))
    assert masks.translate_crop(6, 0, 4, 10).boxes()[1].tolist() == [0, 0, 0, 0]  # nothing left


def test_select_and_cat(masks: InstanceMasks, bitmaps: Tensor) -> None:
    order = [5, 1, 1, 0]
    assert torch.equal(masks.select(order).to_bitmaps(), bitmaps[order])
    both = InstanceMasks.cat([masks.select([3, 2]), masks.hflip(WIDTH).hflip(WIDTH), masks.select([])])
    assert torch.equal(both.to_bitmaps(), torch.cat([bitmaps[[3, 2]], bitmaps]))
    with pytest.raises(ValueError, match="one frame size"):
        InstanceMasks.cat([masks, masks.resize(2, 2)])


def test_pickling_keeps_everything(masks: InstanceMasks) -> None:
    moved = masks.hflip(WIDTH).resize(1.5, 1.5)
    again = pickle.loads(pickle.dumps(moved))
    assert torch.equal(again.to_bitmaps(), moved.to_bitmaps())


@pytest.mark.parametrize("mode", ["polygon", "bitmask", "bitmask_hard"])
def test_nothing_gives_nothing(masks: InstanceMasks, mode: Any) -> None:
    none = InstanceMasks.from_coco([], HEIGHT, WIDTH)
    assert len(none) == 0
    assert none.boxes().shape == (0, 4)
    assert none.areas().shape == (0,)
    assert none.to_bitmaps().shape == (0, HEIGHT, WIDTH)
    assert none.hflip(WIDTH).resize(2, 2).select([]).to_rles() == []
    empty = torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64)
    assert none.crop_and_resize(*empty, 28, mode).shape == (0, 28, 28)
    assert masks.crop_and_resize(*empty, 28, mode).shape == (0, 28, 28)


@pytest.mark.parametrize("mode", ["polygon", "bitmask", "bitmask_hard"])
def test_a_box_away_from_the_mask_is_background(masks: InstanceMasks, mode: Any) -> None:
    boxes = torch.tensor([[60.0, 0, 80, 10], [5.0, 5, 5, 5]])  # far off; without area
    found = masks.crop_and_resize(boxes, torch.tensor([0, 2]), 14, mode)
    assert found[0].sum() == 0
    assert torch.isfinite(found).all()


def test_an_empty_rle_is_an_empty_mask() -> None:
    masks = InstanceMasks.from_coco([{"size": [10, 10], "counts": [100]}], 10, 10)
    assert masks.boxes().tolist() == [[0, 0, 0, 0]]
    for mode in ("polygon", "bitmask", "bitmask_hard"):
        assert masks.crop_and_resize(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), 7, mode).sum() == 0  # type: ignore[arg-type]


def test_misuse_is_told() -> None:
    masks = InstanceMasks.from_coco([[[0, 0, 4, 0, 4, 3]]], 10, 10)
    box = torch.tensor([[0.0, 0, 4, 4]])
    with pytest.raises(ValueError, match="known: polygon, bitmask, bitmask_hard"):
        masks.crop_and_resize(box, torch.tensor([0]), 7, "soft")  # type: ignore[arg-type]
    for index in (1, -1):
        with pytest.raises(ValueError, match="out of range"):
            masks.crop_and_resize(box, torch.tensor([index]), 7, "polygon")
    with pytest.raises(ValueError, match="quarter turns"):
        masks.transform([[1, 0.1, 0], [0, 1, 0]], 10, 10)
    with pytest.raises(ValueError, match="3 .x, y. pairs"):
        InstanceMasks.from_coco([[[0, 0, 4, 0]]], 10, 10)
    with pytest.raises(ValueError, match="size"):
        InstanceMasks.from_coco([{"size": [4, 4], "counts": [16]}], 10, 10)


def test_memory_grows_with_objects_and_not_with_pixels() -> None:
    """1,000 instances on 4000 x 4000 pixels would be 16 GB of bitmaps."""
    rng = np.random.default_rng(0)
    segmentations: list[Any] = []
    for k in range(1000):
        corner = rng.integers(0, 3900, 2)
        if k % 10:
            segmentations.append([(polygon(rng, (0, 0), 40) + np.tile(corner + 50, 9)).tolist()])
        else:  # an RLE of a 60 x 60 square
            x, y = corner.tolist()
            counts = [x * 4000 + y] + [60, 3940] * 59 + [60]
            segmentations.append({"size": [4000, 4000], "counts": [*counts, 4000 * 4000 - sum(counts)]})
    tracemalloc.start()
    masks = InstanceMasks.from_coco(segmentations, 4000, 4000).resize(0.2, 0.2)
    boxes = masks.boxes()
    masks.crop_and_resize(boxes, torch.arange(1000), 28, "polygon")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6, f"{peak / 1e6:.1f} MB"
