"""RoIs as rows: what room without a RoI is to the operators."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.layers import roi_align, roi_pool
from maskrcnn.modeling.roi.rois import RoIs, of_real


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


class Weighed(torch.nn.Module):
    """The boxes of RoIs times how many rows are computed."""

    def forward(self, rois: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        every = RoIs(rois, torch.zeros_like(real, dtype=torch.int64), real)
        (found,) = of_real(every, lambda some: (some.boxes * some.rois.shape[0],))
        return found


def test_an_exported_graph_computes_what_is_real_alone() -> None:
    rois, real = torch.arange(20.0).view(4, 5), torch.tensor([False, True, False, True])
    every = torch.ones(4, dtype=torch.bool)
    assert Weighed()(rois, real).equal(rois[:, 1:] * 4)
    program = torch.export.export(Weighed(), (rois, every), strict=False).module()
    assert program(rois, every).equal(rois[:, 1:] * 4)
    assert program(rois, real).equal(torch.where(real[:, None], rois[:, 1:] * 2, 0))
    assert program(rois, ~every).eq(0).all()
