"""RoIs as rows: what room without a RoI is to the operators."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.layers import roi_align, roi_pool
from maskrcnn.modeling.roi.rois import RoIs


@pytest.mark.parametrize("op", [roi_align, roi_pool])
def test_room_without_a_roi_reads_and_trains_nothing(op: object) -> None:
    boxes = torch.tensor([[0.0, 0, 0, 1, 1], [0, 4, 4, 20, 24], [1, 0, 0, 1, 1], [1, 2, 3, 30, 31]])
    real = torch.tensor([False, True, False, True])
    rois = RoIs(boxes, torch.zeros(4, dtype=torch.int64), real)
    features = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).add_(1).requires_grad_()
    out = op(features, rois.pooled, 2, 0.25)  # type: ignore[operator]
    assert out[~real].eq(0).all()
    assert out[real].equal(op(features, boxes[real], 2, 0.25))  # type: ignore[operator]
    out[~real].sum().backward()
    assert features.grad is not None and features.grad.eq(0).all()
    assert RoIs(boxes, rois.labels, None).pooled is boxes
