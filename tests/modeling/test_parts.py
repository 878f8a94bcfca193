"""Anchors, deltas, matching, sampling, pyramid levels and losses, against figures worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from maskrcnn.modeling import losses
from maskrcnn.modeling.box_coder import decode_boxes, encode_boxes
from maskrcnn.modeling.losses import box_regression_loss, objectness_loss, smooth_l1
from maskrcnn.modeling.matching import balanced_sample, match_boxes
from maskrcnn.modeling.roi.pooler import fpn_levels, to_rois
from maskrcnn.modeling.roi.targets import sample_rois
from maskrcnn.modeling.rpn.anchors import base_anchors, grid_anchors
from maskrcnn.structures import Targets
from maskrcnn.structures.padded import pad_proposals, pad_targets
from maskrcnn.structures.seeds import ROIS, random_keys


def targets_of(boxes: list[list[float]], labels: list[int]) -> Targets:
    return Targets(
        torch.tensor(boxes).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        None,
        torch.arange(len(labels)),
    )


def test_base_anchors_have_the_area_and_the_ratio() -> None:
    for x1, y1, x2, y2 in base_anchors([32.0, 64.0], [0.5, 1.0, 2.0]):
        assert (x1 + x2, y1 + y2) == (0.0, 0.0)
        assert (x2 - x1) * (y2 - y1) == pytest.approx(32.0**2) or (x2 - x1) * (y2 - y1) == pytest.approx(
            64.0**2
        )
    flat, square, tall = base_anchors([32.0], [0.5, 1.0, 2.0])
    assert square == [-16.0, -16.0, 16.0, 16.0]
    assert flat == pytest.approx(
        [-16 * math.sqrt(2), -16 / math.sqrt(2), 16 * math.sqrt(2), 16 / math.sqrt(2)]
    )
    assert (tall[3] - tall[1]) / (tall[2] - tall[0]) == pytest.approx(2.0)
    # torchvision rounds: 22.63 -> 23 and 11.31 -> 11
    assert base_anchors([32.0], [0.5], rounded=True) == [[-23.0, -11.0, 23.0, 11.0]]


def test_anchors_run_row_by_row_with_those_of_a_cell_together() -> None:
    base = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-2.0, -2.0, 2.0, 2.0]])
    grid = grid_anchors(base, 2, 3, (8.0, 16.0))
    assert grid.shape == (12, 4)
    assert grid[1].tolist() == [-2.0, -2.0, 2.0, 2.0]
    assert grid[2].tolist() == [15.0, -1.0, 17.0, 1.0]  # one cell to the right: 16 px
    assert grid[6].tolist() == [-1.0, 7.0, 1.0, 9.0]  # one row down: 8 px
    shifted = grid_anchors(base, 1, 1, (8.0, 16.0), offset=0.5)
    assert shifted[0].tolist() == [7.0, 3.0, 9.0, 5.0]


def test_deltas_by_hand_and_back() -> None:
    reference = torch.tensor([[0.0, 0.0, 10.0, 20.0]], dtype=torch.float64)
    box = torch.tensor([[5.0, 0.0, 25.0, 20.0]], dtype=torch.float64)
    deltas = encode_boxes(box, reference, (10.0, 10.0, 5.0, 5.0))
    # the centre moves from 5 to 15, one width; the width doubles
    assert deltas[0].tolist() == pytest.approx([10.0, 0.0, 5 * math.log(2), 0.0])
    assert torch.allclose(decode_boxes(deltas, reference, (10.0, 10.0, 5.0, 5.0)), box)
    per_class = decode_boxes(deltas[:, None].expand(1, 3, 4), reference, (10.0, 10.0, 5.0, 5.0))
    assert torch.allclose(per_class, box[:, None].expand(1, 3, 4))
    huge = decode_boxes(torch.tensor([[0.0, 0.0, 100.0, 0.0]]), reference.float())
    assert float(huge[0, 2] - huge[0, 0]) == pytest.approx(10 * 1000 / 16)  # clamped at log(1000 / 16)
    assert decode_boxes(deltas.bfloat16(), reference.float()).dtype is torch.float32


def test_matching_by_iou_and_by_best() -> None:
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 140.0, 140.0], [500.0, 0.0, 510.0, 10.0]])
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # IoU 1 with the first
            [0.0, 0.0, 10.0, 20.0],  # 0.5
            [0.0, 0.0, 10.0, 100.0],  # 0.1
            [100.0, 100.0, 120.0, 120.0],  # 0.25 with the second, its best
        ]
    )
    index, labels = match_boxes(truth, boxes, 0.3, 0.7, low_quality=False)
    assert labels.tolist() == [1, -1, 0, 0]
    assert index.tolist()[:2] == [0, 0]
    index, labels = match_boxes(truth, boxes, 0.3, 0.7, low_quality=True)
    assert labels.tolist() == [1, -1, 0, 1], (
        "the best box of a ground truth is positive; none is claimed by the third"
    )
    assert int(index[3]) == 1
    assert match_boxes(truth[:0], boxes, 0.3, 0.7, low_quality=True)[1].tolist() == [0, 0, 0, 0]


def test_sampling_keeps_the_ratio_and_fills_with_negatives() -> None:
    labels = torch.tensor([1] * 10 + [0] * 50 + [-1] * 40)
    keys = random_keys(torch.tensor(0), ROIS, torch.arange(100))
    positive, negative = balanced_sample(labels, 16, 0.25, keys)
    assert len(positive) == 4
    assert len(negative) == 12
    assert len(set(positive.tolist())) == 4
    assert (labels[positive] == 1).all()
    assert (labels[negative] == 0).all()
    positive, negative = balanced_sample(labels[:12], 16, 0.9, keys[:12])
    assert (len(positive), len(negative)) == (10, 2), "no more than there are"


def test_ground_truth_joins_the_proposals() -> None:
    targets = targets_of([[10.0, 10.0, 30.0, 30.0]], [4])
    far = torch.tensor([[200.0, 200.0, 220.0, 220.0]] * 3)
    sample = sample_rois(
        pad_proposals([far]),
        pad_targets([targets]),
        balanced_sample,
        num_classes=7,
        low=0.5,
        high=0.5,
        count=4,
        positive_fraction=0.25,
        seeds=torch.tensor([0]),
        static=False,
    )
    assert sample.positive.boxes.tolist() == [[10.0, 10.0, 30.0, 30.0]]
    assert sample.labels.tolist() == [4, 7, 7, 7], "background comes last"


def test_pyramid_levels_of_equation_1() -> None:
    sides = [1.0, 56.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 4000.0]
    boxes = torch.tensor([[0.0, 0.0, s, s] for s in sides], dtype=torch.float64)
    assert fpn_levels(boxes, 2, 5).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert fpn_levels(boxes, 2, 5, "torchvision").tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    rois = to_rois([boxes[:2], boxes[:0], boxes[2:3]])
    assert rois[:, 0].tolist() == [0.0, 0.0, 2.0]


def test_losses_by_hand() -> None:
    d = torch.tensor([0.0, 0.5, 1.0, 3.0])
    zero = torch.zeros(4)
    assert smooth_l1(d, zero, 0.0).tolist() == [0.0, 0.5, 1.0, 3.0]
    assert smooth_l1(d, zero, 1.0).tolist() == [0.0, 0.125, 0.5, 2.5]
    assert smooth_l1(d, zero, 2.0).tolist() == [0.0, 0.0625, 0.25, 2.0]
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expected = -(2 - math.log(math.e**2 + 2) + 1 - math.log(math.e + 2)) / 2
    assert float(losses.class_loss(logits, torch.tensor([0, 2]))) == pytest.approx(expected)
    # the mean is weighted: (2 x first + second) / 3
    weights = torch.tensor([2.0, 5.0, 1.0])
    each = [2 - math.log(math.e**2 + 2), 1 - math.log(math.e + 2)]
    weighted = losses.class_loss(logits, torch.tensor([0, 2]), weights)
    assert float(weighted) == pytest.approx(-(2 * each[0] + each[1]) / 3)
    # one positive of four RoIs: the sum is divided by four
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert float(box_regression_loss(torch.ones(1, 4), box, box, 4)) == pytest.approx(1.0)
    masks = torch.zeros(2, 3, 3)
    assert float(losses.mask_loss(masks, torch.ones(2, 3, 3))) == pytest.approx(math.log(2))
    objects = torch.tensor([0.0, 0.0])
    found = objectness_loss(objects, torch.tensor([1.0, 0.0]), 256.0)
    assert float(found) == pytest.approx(2 * math.log(2) / 256)
    for empty in (
        losses.class_loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
        box_regression_loss(torch.zeros(0, 4), box[:0], box[:0], 1),
        losses.mask_loss(torch.zeros(0, 3, 3), torch.zeros(0, 3, 3)),
    ):
        assert float(empty) == 0.0
