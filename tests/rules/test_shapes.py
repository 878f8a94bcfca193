"""Docstrings give the shapes of tensors, and they are the shapes that come."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskrcnn import layers
from maskrcnn.inference.paste import paste_masks
from maskrcnn.layers import geometry, ops
from maskrcnn.modeling import box_coder, losses, matching, norms
from maskrcnn.modeling.backbones.blocks import BasicBlock, Bottleneck
from maskrcnn.modeling.roi import (
    box_head,
    decode,
    keypoint_decode,
    keypoint_head,
    mask_targets,
    pooler,
    targets,
)
from maskrcnn.modeling.roi.mask_head import FCNMaskHead
from maskrcnn.modeling.roi.mask_mlp import MLPMaskHead
from maskrcnn.modeling.roi.stages import scale_gradient
from maskrcnn.modeling.rpn.anchors import grid_anchors
from maskrcnn.modeling.rpn.rpn import RPNHead
from maskrcnn.structures import InstanceMasks, PackedMasks, boxes, rle
from tests.rules.shapes import RESULTS, SHAPE, Function, ShapeError, compare, of_tensors, read, states_a_shape
from tests.rules.test_imports import MODULES, module_name

ROOMS = ("modeling", "layers", "structures", "inference")


def public_functions(owner: Any, module: str) -> Iterator[Function]:
    """Functions, methods and properties that a module defines, without those whose names begin with ``_``."""
    for name, value in vars(owner).items():
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        value = inspect.unwrap(value) if callable(value) else value
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if inspect.isclass(value):
            yield from public_functions(value, module)
        elif inspect.isfunction(value):
            yield value


def test_public_functions_of_tensors_state_shapes() -> None:
    states: dict[str, bool] = {}
    for path in MODULES:
        name = module_name(path)
        if name.split(".")[1:2] and name.split(".")[1] in ROOMS:
            for function in public_functions(importlib.import_module(name), name):
                if of_tensors(function):
                    states[f"{name}.{function.__qualname__}"] = states_a_shape(function)
    missing = [name for name, there in states.items() if not there]
    assert len(states) > 150
    assert len(missing) <= 0.05 * len(states), missing


def xyxy(count: int, side: float = 30.0) -> Tensor:
    """Boxes [count, 4] with sides of at least a pixel."""
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(count)) * side / 2
    return torch.cat((corners, corners + 1 + corners.flip(1)), dim=1)


POINTS = torch.linspace(-0.5, 5.5, 6).view(2, 3)
LOW, HIGH = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([9.0, 8.5, 12.0])
SAMPLED = geometry.sampled_axis(LOW, HIGH, 0.5, 4, geometry.ALIGNED, 2)
CELLS = geometry.cell_axis(LOW, HIGH, 0.5, 4, "round", "overlap")
GRID = geometry.Geometry(SAMPLED, geometry.sampled_axis(LOW, HIGH, 0.5, 5, geometry.ALIGNED, 3))
LEGACY = geometry.point_axis(LOW, HIGH, 0.5, 4)
MAP = torch.rand(2, 3, 16, 20)
ROIS = torch.cat((torch.tensor([[0.0], [1.0], [1.0], [0.0]]), xyxy(4)), dim=1)
POOLED = torch.rand(5, 6, 7, 7)
PROPOSALS, REAL = xyxy(6).view(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
LABELS = torch.tensor([0, 2, 1, 1, 2])
PAIR = torch.tensor([[0.0, 0, 8, 6], [2, 1, 9, 9]])
MASKS = InstanceMasks.from_coco([[[1, 1, 9, 1, 9, 7]], {"size": [12, 16], "counts": [5, 7, 180]}], 12, 16)
KEYPOINTS = torch.cat((xyxy(5)[:, None, :2].expand(5, 3, 2), torch.ones(5, 3, 1)), dim=2)
VALID = KEYPOINTS[..., 2] > 0
CODE = rle.encode(np.eye(6, 9, dtype=np.uint8))
THERE = torch.tensor([True, False])

#: What is called, with what, and letters that are known beforehand: what they mean is in the module's legend.
CALLS: list[tuple[Function, tuple[Any, ...], dict[str, Any]]] = [
    (geometry.round_half_away, (POINTS,), {}),
    (geometry.on_map, (POINTS, 5), {}),
    (geometry.taps, (POINTS, 5), {}),
    (geometry.bilinear_rows, (POINTS, 5), {}),
    (geometry.random_fractions, (1, 2, 6, 4), {}),
    (SAMPLED.points, (1,), {"P": 4, "S": 2}),
    (SAMPLED.weights, (1, 16), {"P": 4, "L": 16}),
    (LEGACY.points, (1,), {"P": 4, "S": 1}),
    (LEGACY.weights, (1, 16), {"P": 4, "L": 16}),
    (CELLS.weights, (1, 16), {"P": 4, "L": 16}),
    (geometry.integral_axis(LOW, HIGH, 0.5, 4).weights, (1, 16), {"P": 4, "L": 16}),
    (GRID.points, (1,), {"P": 4, "Q": 5, "S": 6}),
    (GRID.weights, (1, 16, 20), {"P": 4, "Q": 5, "H": 16, "W": 20}),
    (GRID.times_read, (1, 16, 20), {"H": 16, "W": 20}),
    *(
        (op, (MAP, ROIS, (4, 5), 0.5), {"C": 3, "K": 4, "P": 4, "Q": 5})
        for op in (layers.roi_align, layers.roi_pool, layers.prroi_pool, layers.roi_warp)
    ),
    (layers.RoIAlign(7).pool, (MAP, ROIS, (4, 5), 0.5), {"R": 4, "C": 3, "P": 4, "Q": 5}),
    (layers.nms, (PROPOSALS, torch.rand(2, 3), REAL, 0.5, 2), {}),
    (layers.match, (PROPOSALS, REAL, xyxy(5), 0.3, 0.7, True), {}),
    (layers.batched_nms, (xyxy(5), torch.rand(5), LABELS, 0.5), {}),
    (layers.nms_of_lists, (xyxy(5), torch.rand(5), LABELS, (2, 3), 0.5, 2), {}),
    (ops.set_apart, (PROPOSALS, REAL.long(), REAL), {}),
    (boxes.box_area, (xyxy(5),), {}),
    (boxes.box_iou, (xyxy(5), xyxy(3)), {}),
    (boxes.clip_boxes, (xyxy(5).view(1, 5, 4), 20.0, 20.0), {}),
    (boxes.large_enough, (xyxy(5), 2.0), {}),
    (boxes.xywh_to_xyxy, (xyxy(5),), {}),
    (boxes.xyxy_to_xywh, (xyxy(5),), {}),
    (MASKS.boxes, (), {"G": 2}),
    (MASKS.areas, (), {"G": 2}),
    (MASKS.to_bitmaps, (), {"G": 2}),
    (MASKS.packed_polygons, (np.array([0, 0, 1]),), {"P": 6, "Q": 2}),
    (MASKS.polygons, (0,), {"n": 3}),
    (rle.decode, (CODE,), {"height": 6, "width": 9}),
    (rle.decode_many, ([CODE, CODE],), {"n": 2, "height": 6, "width": 9}),
    (box_coder.encode_boxes, (xyxy(5), xyxy(5)), {}),
    (box_coder.decode_boxes, (torch.zeros(5, 3, 4), xyxy(5)), {}),
    (losses.smooth_l1, (POINTS, POINTS + 1, 0.5), {}),
    (losses.giou_loss, (xyxy(5), xyxy(5)), {}),
    (losses.box_regression_loss, (torch.zeros(5, 4), xyxy(5), xyxy(5), 5.0), {}),
    (norms.FrozenBatchNorm2d(3), (MAP,), {}),
    (norms.FrozenBatchNorm2d(3).scale_shift, (), {"C": 3}),
    (norms.ConvNorm(3, 8, 3), (MAP,), {"Cout": 8}),
    (BasicBlock(3, 8, stride=2, norm="bn"), (MAP,), {"C": 8, "stride": 2}),
    (Bottleneck(3, 8, inner=4, stride=2, norm="bn"), (MAP,), {"C": 32, "stride": 2}),
    (matching.match_boxes, (xyxy(3), xyxy(5), 0.3, 0.7), {"low_quality": True}),
    (mask_targets.masks_in_boxes, (MASKS, PAIR, torch.tensor([0, 1]), 14, "polygon"), {}),
    (
        mask_targets.rasterise,
        (PackedMasks.of([MASKS], drawn=True), PAIR, torch.tensor([0, -1]), 14, "polygon"),
        {},
    ),
    (
        mask_targets.draw_in_boxes,
        (*MASKS.packed_polygons(np.array([0, 0])), PAIR.double().numpy(), 14),
        {},
    ),
    (
        mask_targets.align_in_boxes,
        (*MASKS.placed_bitmap(1), PAIR.double().numpy(), 14, True, np.float32),
        {},
    ),
    (pooler.fpn_levels, (xyxy(5), 2, 5), {}),
    (pooler.to_rois, ([xyxy(5), xyxy(3)],), {"R": 8}),
    (decode.own_class, (torch.rand(5, 3, 4), LABELS), {}),
    (keypoint_head.keypoint_cells, (KEYPOINTS, xyxy(5), 8), {}),
    (
        keypoint_head.keypoint_loss,
        (torch.rand(5, 3, 8, 8), torch.zeros(5, 3).long(), VALID),
        {},
    ),
    (keypoint_decode.decode_keypoints, (torch.rand(5, 3, 8, 8), xyxy(5)), {}),
    (keypoint_head.ConvKeypointHead(6, 3, convs=1, width=8, pool_size=7), (POOLED,), {"J": 3, "M": 28}),
    (losses.class_loss, (torch.rand(5, 4), LABELS), {"K": 3}),
    (losses.mask_loss, (torch.rand(5, 8, 8), torch.rand(5, 8, 8)), {}),
    (losses.wide, (POINTS.half(),), {}),
    (scale_gradient, (POINTS, 0.5), {}),
    (FCNMaskHead(6, 3, convs=1, width=8, pool_size=7), (POOLED,), {"K": 3, "M": 14}),
    (MLPMaskHead(6, 3, hidden=8, pool_size=7, mask_size=12), (POOLED,), {"K": 3, "M": 12}),
    (box_head.TwoFCBoxHead(6, 3, hidden=8), (POOLED,), {"K": 3}),
    (losses.masked, (POINTS, THERE), {}),
    (losses.mean, (POINTS, THERE), {}),
    (targets.show_keypoints, (xyxy(5), KEYPOINTS), {}),
    (grid_anchors, (xyxy(3), 4, 5, (8, 8), 0.0), {}),
    (RPNHead(3, 2), ([MAP],), {"A": 2}),
    (losses.objectness_loss, (torch.rand(5), torch.ones(5), 5.0), {}),
    (paste_masks, (torch.rand(2, 14, 14), PAIR, 12, 16), {"H": 12, "W": 16}),
]


@pytest.mark.parametrize(
    ("function", "args", "known"),
    [(getattr(f, "forward", f), *rest) for f, *rest in CALLS],
    ids=[type(f).__name__ if isinstance(f, nn.Module) else f.__qualname__ for f, _, _ in CALLS],
)
def test_the_stated_shapes_come(function: Function, args: tuple[Any, ...], known: dict[str, Any]) -> None:
    compare(function, *args, **known)
    # And a docstring that states others is told: of the arguments, then of the results.
    doc = function.__doc__ or ""
    start = RESULTS.search(doc)
    stated = read(function)
    for part, there in (("arguments", stated.arguments), ("results", stated.results)):
        if not there:
            continue

        def wrong(match: Any, part: str = part) -> str:
            result = match.start() > start.start() if start else part == "results"
            return f"[{match[1]}, 99]" if result == (part == "results") else match[0]

        with pytest.raises(ShapeError):
            compare(function, *args, doc=SHAPE.sub(wrong, doc), **known)
