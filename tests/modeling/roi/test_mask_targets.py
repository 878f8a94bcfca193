"""Targets of masks: each mode equals its peer's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from maskrcnn.modeling.roi import mask_targets
from maskrcnn.modeling.roi.mask_targets import masks_in_boxes, rasterise
from maskrcnn.structures import InstanceMasks, PackedMasks
from tests.layers.cases import needs_kernels
from tests.structures.instances import (
    HEIGHT,
    TURNS,
    WIDTH,
    jittered,
    resized,
)
from tests.structures.rasters import bitmap_rasters, polygon_rasters


@needs_kernels
@pytest.mark.parametrize("seed", range(3))
def test_the_operator_is_its_twin_to_the_bit(seed: int) -> None:
    """The twin draws by pycocotools and reads bitmaps by RoIAlign."""
    drawn = total = 0.0
    for raster in [*polygon_rasters(40, seed), *bitmap_rasters(30, seed)]:
        found = rasterise(*raster)
        twin = mask_targets._rasterise_slowly(*raster[:-1], soft=raster.mode == "bitmask")
        assert found.dtype == raster.boxes.dtype
        assert torch.equal(found, twin)
        drawn, total = drawn + float(found.sum()), total + found.numel()
    assert 0.05 < drawn / total < 0.5


def test_far_away_vertices_cost_nothing_and_change_nothing() -> None:
    """An edge of 10^6 pixels through a box; pycocotools walks 10^8 steps where the frame is drawn large."""
    masks = InstanceMasks.from_coco(
        [[[-1e6, 5.25, 1e6, 5.25, 1e6, 40, -1e6, 1e6]], [[2, 2, 1e8, 3, 4, 1e8]]], 60, 60
    )
    found = masks_in_boxes(masks, torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]]), torch.tensor([0, 1]), 10)
    assert found[0].sum(1).tolist() == [0] * 5 + [10] * 5
    assert found[1, 5:, 5:].all() and not found[1, :2].any()


@needs_kernels
def test_nothing_is_drawn_for_no_instance_and_no_mask() -> None:
    packed = PackedMasks.of(
        [None, InstanceMasks.from_coco([[], [[0, 0, 9, 0, 9, 9, 0, 9]]], 10, 10)], drawn=True
    )
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(4, 1)
    found = rasterise(packed, boxes, torch.tensor([-1, 0, 2, 3]), 4, "polygon")
    assert packed.per_image == 2
    assert found.sum((1, 2)).tolist() == [0, 0, 0, 16]
    with pytest.raises(ValueError, match="packed with drawn=True"):
        rasterise(packed, boxes, torch.tensor([0, 0, 0, 0]), 4, "bitmask")
    with pytest.raises(RuntimeError, match="asks for instance 4 of 4"):
        rasterise(packed, boxes, torch.tensor([0, 0, 0, 4]), 4, "polygon")
    with pytest.raises(RuntimeError, match="box 1 holds a NaN"):
        rasterise(
            packed,
            boxes * torch.tensor([1, float("nan"), 1, 1])[:, None],
            torch.tensor([-1, 0, 0, 0]),
            4,
            "polygon",
        )


@needs_kernels
@pytest.mark.parametrize("rasters", [polygon_rasters, bitmap_rasters])
def test_opcheck(rasters: Any) -> None:
    packed, boxes, instance, size, mode = next(rasters(1, seed=2))
    arguments = (*packed.tensors, boxes, instance, size, mode == "bitmask")
    torch.library.opcheck(torch.ops.maskrcnn.rasterise.default, arguments)


@needs_kernels
@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_into_one_graph(dynamic: bool) -> None:
    raster = next(bitmap_rasters(1, seed=3))

    def step(packed: PackedMasks, boxes: Tensor, instance: Tensor) -> Tensor:
        return rasterise(packed, boxes * 1.5, instance, 14, raster.mode) * 2

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    inputs = raster.packed, raster.boxes, raster.instance
    assert torch.equal(step(*inputs), compiled(*inputs))


@pytest.mark.parametrize("size", [7, 28])
def test_bitmask_is_torchvisions_target(masks: InstanceMasks, bitmaps: Tensor, size: int) -> None:
    boxes, index = jittered(masks)
    found = masks_in_boxes(masks, boxes, index, size, "bitmask")
    assert found.dtype == torch.float64
    wanted = project_masks_on_boxes(bitmaps.double(), boxes, index, size)
    assert (found - wanted).abs().max() < 1e-10
    assert 0.05 < wanted.mean() < 0.95
    single = masks_in_boxes(masks, boxes.float(), index, size, "bitmask")
    assert single.dtype == torch.float32
    assert (single - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("size", [7, 28])
def test_bitmask_hard_is_detectron2s_target(masks: InstanceMasks, bitmaps: Tensor, size: int) -> None:
    # BitMasks.crop_and_resize: ROIAlign(size, 1.0, 0, aligned=True) of the bitmaps, then >= 0.5.
    boxes, index = jittered(masks)
    rois = torch.cat([index[:, None].double(), boxes], dim=1)
    values = roi_align(bitmaps[:, None].double(), rois, (size, size), 1.0, 0, True)[:, 0]
    found = masks_in_boxes(masks, boxes, index, size, "bitmask_hard")
    clear = (values - 0.5).abs() > 1e-9
    assert clear.double().mean() > 0.95
    assert torch.equal(found[clear], (values >= 0.5).double()[clear])


@pytest.mark.parametrize("size", [14, 28])
def test_polygon_is_detectron2s_target(segmentations: list[Any], masks: InstanceMasks, size: int) -> None:
    # rasterize_polygons_within_box: move by the corner, scale by size / max(side, 0.1), draw.
    boxes, index = jittered(masks, torch.float32)
    found = masks_in_boxes(masks, boxes, index, size, "polygon")
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
    a = masks_in_boxes(masks, boxes, index, 28, "polygon")
    b = masks_in_boxes(masks, boxes, index, 28, "bitmask_hard")
    is_rle = torch.tensor([not masks.is_polygon(i) for i in index.tolist()])
    assert is_rle.sum() == 9
    assert torch.equal(a[is_rle], b[is_rle])
    # And for polygons the two ways differ at edges alone.
    assert (a != b).double().mean() < 0.05


@pytest.mark.parametrize("name", TURNS)
def test_bitmask_of_a_turned_rle_is_that_of_the_turned_bitmap(
    masks: InstanceMasks, bitmaps: Tensor, name: str
) -> None:
    turn, expected = TURNS[name]
    rows = [2, 4, 5]
    turned, wanted = turn(masks.select(rows)), expected(bitmaps[rows])
    boxes, index = jittered(turned)
    direct = project_masks_on_boxes(wanted.double(), boxes, index, 14)
    whole = (turned.boxes() != torch.tensor([0, 0, turned.width, turned.height])).all(1)[index]
    # A crop sees beyond its edge; away from it, reading in the stored frame is reading the turned bitmap.
    near = (masks_in_boxes(turned, boxes, index, 14, "bitmask") - direct).abs()[whole]
    assert near.numel() == 0 or near.max() < 1e-9


@pytest.mark.parametrize("mode", ["polygon", "bitmask_hard"])
def test_targets_do_not_depend_on_the_scale_of_the_frame(segmentations: list[Any], mode: Any) -> None:
    masks = InstanceMasks.from_coco([segmentations[i] for i in (0, 1, 2, 4)], HEIGHT, WIDTH)
    if mode == "bitmask_hard":
        masks = masks.select([2, 3])
    boxes, index = jittered(masks)
    large = masks_in_boxes(resized(masks, 2.0, 4.0), boxes * torch.tensor([2.0, 4, 2, 4]), index, 28, mode)
    assert torch.equal(large, masks_in_boxes(masks, boxes, index, 28, mode))


def test_not_aligned_is_aligned_half_a_pixel_on_whatever_the_scale(masks: InstanceMasks) -> None:
    """Not aligned, the index x stands for the point x + 0.5 of the current frame, not of the stored one."""
    large = resized(masks.select([2, 4, 5]), 2.0, 4.0)
    boxes, index = jittered(large)
    soft = masks_in_boxes(large, boxes, index, 14, "bitmask")
    hard = masks_in_boxes(large, boxes + 0.5, index, 14, "bitmask_hard")
    clear = (soft - 0.5).abs() > 1e-9
    assert clear.double().mean() > 0.9
    assert torch.equal((soft >= 0.5)[clear], hard[clear] > 0)


@pytest.mark.parametrize("mode", ["polygon", "bitmask", "bitmask_hard"])
def test_no_boxes_give_no_targets(masks: InstanceMasks, mode: Any) -> None:
    none = InstanceMasks.from_coco([], HEIGHT, WIDTH)
    empty = torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64)
    assert masks_in_boxes(none, *empty, 28, mode).shape == (0, 28, 28)
    assert masks_in_boxes(masks, *empty, 28, mode).shape == (0, 28, 28)


@pytest.mark.parametrize("mode", ["polygon", "bitmask", "bitmask_hard"])
def test_a_box_away_from_the_mask_is_background(masks: InstanceMasks, mode: Any) -> None:
    boxes = torch.tensor([[60.0, 0, 80, 10], [5.0, 5, 5, 5]])  # far off; without area
    found = masks_in_boxes(masks, boxes, torch.tensor([0, 2]), 14, mode)
    assert found[0].sum() == 0
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("mode", ["polygon", "bitmask", "bitmask_hard"])
def test_an_empty_rle_gives_an_empty_target(mode: Any) -> None:
    masks = InstanceMasks.from_coco([{"size": [10, 10], "counts": [100]}], 10, 10)
    assert masks_in_boxes(masks, torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), 7, mode).sum() == 0


def test_misuse_is_told() -> None:
    masks = InstanceMasks.from_coco([[[0, 0, 4, 0, 4, 3]]], 10, 10)
    box = torch.tensor([[0.0, 0, 4, 4]])
    with pytest.raises(ValueError, match="known: polygon, bitmask, bitmask_hard"):
        masks_in_boxes(masks, box, torch.tensor([0]), 7, "soft")  # type: ignore[arg-type]
    for index in (1, -1):
        with pytest.raises(ValueError, match="out of range"):
            masks_in_boxes(masks, box, torch.tensor([index]), 7, "polygon")
