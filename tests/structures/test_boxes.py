"""The pixel convention."""

from __future__ import annotations

import torch

from maskrcnn.structures import box_area, box_iou, clip_boxes, large_enough, xywh_to_xyxy, xyxy_to_xywh


def test_width_is_the_difference_without_plus_one() -> None:
    boxes = torch.tensor([[1.0, 2, 4, 6], [3.0, 3, 3, 9], [5.0, 5, 2, 8]])
    assert box_area(boxes).tolist() == [12, 0, 0]
    assert xyxy_to_xywh(boxes[:1]).tolist() == [[1, 2, 3, 4]]
    assert torch.equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


def test_iou_by_hand_and_never_nan() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [1.0, 1, 1, 1]])
    b = torch.tensor([[2.0, 0, 6, 4], [0.0, 0, 4, 4], [4.0, 0, 8, 4], [1.0, 1, 1, 1]])
    assert torch.allclose(box_iou(a, b), torch.tensor([[8 / 24, 1, 0, 0], [0.0, 0, 0, 0]]))
    assert box_iou(a[:0], b).shape == (0, 4)


def test_clip_and_size() -> None:
    clipped = clip_boxes(torch.tensor([[-3.0, 2, 12, 30]]), height=20, width=10)
    assert clipped.tolist() == [[0, 2, 10, 20]]
    sides = torch.tensor([[0.0, 0, 2, 2], [0.0, 0, 2, 1], [0.0, 0, 0, 5]])
    assert large_enough(sides, 2).tolist() == [True, False, False]
    assert large_enough(sides, 0).tolist() == [True, True, False]
