"""roi_pool: equal to torchvision to the bit, hand-worked bins, and what each quantisation loses."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from maskrcnn.layers import RoIPool, geometry, ops, roi_pool
from tests.layers.cases import awkward_rois, features, generator, needs_kernels, relative


def row(*values: float) -> Tensor:
    """A map of one row, [1, 1, 1, W]."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def one(x1: float, x2: float) -> Tensor:
    """One box over a map of one row."""
    return torch.tensor([[0.0, x1, 0.0, x2, 0.0]])


@needs_kernels
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_torchvision_to_the_bit(dtype: torch.dtype, channels_last: bool) -> None:
    x = features((2, 21, 25, 33), dtype, channels_last)
    rois = awkward_rois(2, 100, 132)
    args = ([x.detach()], rois.to(torch.promote_types(dtype, torch.float32)), None, [0.25], 7, 5, 0, 0, False)
    ours, argmax = torch.ops.maskrcnn.roi_pool(*args)
    # torchvision takes one type for both; a half-precision box would be another box
    wide = x.detach().float() if dtype is torch.float16 else x.detach()
    theirs, index = torch.ops.torchvision.roi_pool(wide, rois.to(wide.dtype), 0.25, 7, 5)
    assert torch.equal(ours.to(wide.dtype), theirs)
    assert torch.equal(argmax, index)
    if dtype is not torch.float16:
        grad = torch.randn(theirs.shape, generator=generator(), dtype=dtype)
        (ga,) = torch.autograd.grad(roi_pool(x, rois, (7, 5), 0.25), x, grad)
        (gb,) = torch.autograd.grad(torchvision.ops.roi_pool(x, rois.to(dtype), (7, 5), 0.25), x, grad)
        assert relative(ga, gb) <= 1e-6


@needs_kernels
def test_awkward_values_as_torchvision() -> None:
    """NaN, infinities and ties: the same values and the same argmax."""
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, 1.0])
    pick = torch.randint(0, 7, (1, 16, 9, 11), generator=generator())
    value = x[pick].contiguous()
    rois = awkward_rois(1, 9, 11)
    ours, argmax = torch.ops.maskrcnn.roi_pool([value], rois, None, [1.0], 3, 3, 0, 0, False)
    theirs, index = torch.ops.torchvision.roi_pool(value, rois, 1.0, 3, 3)
    assert torch.equal(argmax, index)
    assert torch.equal(ours, theirs)


def test_overlapping_bins() -> None:
    """Box 0 .. 4 rounds to cells 0 .. 4, the last one included: 5 cells in 2 bins [0, 3) and [2, 5)."""
    x = row(1, 2, 9, 4, 5, 100)
    assert roi_pool(x, one(0, 4), (1, 2)).flatten().tolist() == [9, 9]


def test_partitioned_bins() -> None:
    """Box 0 .. 5, 5 cells: they split into 2 + 3, no cell twice and none lost."""
    x = row(1, 7, 9, 4, 5, 100)
    box = torch.tensor([[0, 0, 0, 5, 1.0]])
    assert roi_pool(x, box, (1, 2), bins="partition").flatten().tolist() == [7, 9]
    assert roi_pool(x, box, (1, 5), bins="partition").flatten().tolist() == [1, 7, 9, 4, 5]


def test_truncated_bins() -> None:
    """Box 0 .. 5, 2 bins of floor(5 / 2) = 2 cells; the fifth is dropped."""
    x = row(1, 7, 3, 4, 50, 100)
    box = torch.tensor([[0, 0, 0, 5, 1.0]])
    assert roi_pool(x, box, (1, 2), bins="truncate").flatten().tolist() == [7, 4]
    assert roi_pool(x, box, (1, 6), bins="truncate").flatten().tolist() == [0] * 6  # bins of no cell


def test_rounding() -> None:
    """Box 1.5 .. 3.5: round takes halves away from zero, 2 .. 4; floor 1 .. 3; sppnet 2 .. 3."""
    x = row(0, 1, 2, 3, 4, 5)
    low = -x
    box = torch.tensor([[0, 1.5, -0.5, 3.5, 0.5]])
    expected: list[tuple[geometry.Rounding, int, int]] = [("round", 2, 4), ("floor", 1, 3), ("sppnet", 2, 3)]
    for rounding, first, last in expected:
        assert roi_pool(x, box, 1, rounding=rounding).item() == last
        assert roi_pool(low, box, 1, rounding=rounding).item() == -first
    # negative halves too: -0.5 rounds to -1, so 2 + 1 cells in two bins leave [-1, 1) and [0, 2)
    assert roi_pool(row(5, 6, 7), one(-0.5, 1), (1, 2)).flatten().tolist() == [5, 6]


def test_shared_maximum_collects_every_gradient() -> None:
    """Three RoIs that share one maximum give it a gradient of 3."""
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    x.requires_grad_()
    rois = torch.tensor([[0, 0, 0, 4, 4.0], [0, 1, 1, 3, 3.0], [0, 2, 2, 2, 2.0]])
    (grad,) = torch.autograd.grad(roi_pool(x, rois, 1).sum(), x)
    assert float(grad[0, 0, 2, 2]) == 3
    assert float(grad.sum()) == 3


def test_ties_go_to_the_first_cell() -> None:
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(roi_pool(x, torch.tensor([[0, 0, 0, 2, 2.0]]), 1).sum(), x)
    assert grad.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_worked_example() -> None:
    """An 800 x 800 image, stride 32, a 665 px box: flooring to 20 cells, bins of 2, 6 cells never seen."""
    cells = torch.arange(25.0).view(1, 1, 1, 25).expand(1, 1, 25, 25)
    roi = torch.tensor([[0, 0, 0, 665, 665.0]])

    def right_edges(bins: geometry.Bins) -> list[float]:
        return (roi_pool(cells, roi, 7, 1 / 32, rounding="floor", bins=bins)[0, 0, 0] + 1).tolist()

    truncated = right_edges("truncate")
    assert truncated == [2, 4, 6, 8, 10, 12, 14]
    assert 20 - truncated[-1] == 6
    assert round((20 / 7 - truncated[0]) * 32, 2) == 27.43
    assert right_edges("partition") == [2, 5, 8, 11, 14, 17, 20]
    exact = 665 / 32
    assert round(exact - 20, 2) == 0.78  # cells that flooring the box loses


@pytest.mark.parametrize("rounding", ops.ROUNDINGS)
def test_partition_uses_each_cell_of_the_box_once(rounding: geometry.Rounding) -> None:
    g = generator()
    total = 0.0
    for _ in range(6):
        corner = torch.rand(2, generator=g) * 8
        size = 3 + torch.rand(2, generator=g) * 8
        roi = torch.cat([torch.zeros(1), corner, corner + size])[None]
        seen = torch.zeros(20, 20)
        value = torch.zeros(20, 20)
        for y in range(20):  # light one cell at a time and count the bins that see it
            for cell in (5, 9, 12):
                value.zero_()
                value[y, cell] = 1
                pooled = roi_pool(value[None, None], roi, 4, rounding=rounding, bins="partition")
                seen[y, cell] = pooled.sum()
        assert float(seen.max()) <= 1
        total += float(seen.sum())
    assert total > 10


def test_module() -> None:
    x = features((1, 3, 8, 8)).detach()
    rois = torch.tensor([[0, 1, 1, 6, 7.0]])
    module = RoIPool((2, 3), 0.5, rounding="floor", bins="partition")
    assert torch.equal(module(x, rois), roi_pool(x, rois, (2, 3), 0.5, rounding="floor", bins="partition"))
    said = "RoIPool(output_size=(2, 3), spatial_scale=0.5, rounding='floor', bins='partition')"
    assert repr(module) == said
    assert torch.equal(RoIPool(2, 0.5)(x, [rois[:, 1:]]), torchvision.ops.roi_pool(x, rois, 2, 0.5))
