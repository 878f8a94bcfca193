"""RoIWarp, PrRoI pooling and the legacy RoIAlign: hand-worked tables, gradients, their modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from maskrcnn.layers import (
    PrRoIPool,
    RoIAlignAvg,
    RoIAlignMax,
    RoIWarp,
    prroi_pool,
    roi_align,
    roi_align_legacy,
    roi_warp,
)
from tests.layers.cases import awkward_rois, features, generator, reference_twins, relative


def linear(height: int, width: int, by_y: float = 4.0, by_x: float = 1.0) -> Tensor:
    """[1, 1, H, W] with value by_y y + by_x x at cell (y, x)."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return (by_y * y + by_x * x)[None, None]


def box(*values: float) -> Tensor:
    return torch.tensor([[0.0, *values]])


# ------------------------------------------------------------------ RoIWarp


def test_warp_by_hand() -> None:
    x = linear(4, 4)
    # 0.5 rounds to 1 (away from zero) and 2.5 to 3: cells 1 .. 3, size 3, one sample at 1 + 1.5
    assert roi_warp(x, box(0.5, 0.5, 2.5, 2.5), 1, sampling_ratio=1).item() == 4 * 2.5 + 2.5
    # three bins of one cell: samples at 1.5, 2.5, and 3.5 which the last cell holds
    out = roi_warp(x, box(0.5, 0.5, 2.5, 2.5), 3, sampling_ratio=1)[0, 0]
    assert out.tolist() == [[7.5, 8.5, 9], [11.5, 12.5, 13], [13.5, 14.5, 15]]
    assert roi_warp(x, box(0.5, 0.5, 2.5, 2.5), 1, sampling_ratio=3, aggregation="max").item() == 15
    # an inverted box is one cell wide
    assert roi_warp(x, box(2, 2, 0, 0), 1, sampling_ratio=1).item() == 4 * 2.5 + 2.5


def test_warp_ignores_the_fraction_of_the_box() -> None:
    x = features((1, 3, 9, 9)).detach()
    a = roi_warp(x, box(8.0, 8.0, 24.0, 24.0), 2, 1 / 4, 2)
    assert torch.equal(a, roi_warp(x, box(7.1, 8.9, 25.0, 23.2), 2, 1 / 4, 2))
    assert not torch.equal(a, roi_warp(x, box(5.9, 8.0, 24.0, 24.0), 2, 1 / 4, 2))
    assert torch.equal(RoIWarp(2, 0.25, 2)(x, box(8.0, 8.0, 24.0, 24.0)), a)


# ------------------------------------------------------------------ PrRoI pooling


def test_precise_by_hand() -> None:
    x = linear(4, 4)
    assert prroi_pool(x, box(0, 0, 1, 1), 1).item() == 2.5  # the mean of the four corners 0, 1, 4, 5
    # the hat of cell (0, 0) alone reaches beyond the map: an integral of 1/2 on each axis
    assert prroi_pool(x + 8, box(-1, -1, 0, 0), 1).item() == 8 / 4
    assert prroi_pool(x, box(1, 1, 1, 2), 1).item() == 0  # no area
    assert prroi_pool(x, box(2, 2, 1, 1), 1).item() == 0
    # linear maps are integrated exactly: the value at the middle of each bin
    out = prroi_pool(x, box(0.25, 0.5, 2.75, 2.5), (2, 1))[0, 0, :, 0]
    torch.testing.assert_close(out, torch.tensor([4 * 1.0 + 1.5, 4 * 2.0 + 1.5]))


def test_precise_is_the_limit_of_many_samples() -> None:
    x = features((1, 4, 12, 12), torch.float64).detach()
    rois = torch.tensor([[0, 1.3, 2.1, 9.2, 8.8], [0, 3, 3, 10.5, 7]], dtype=torch.float64)
    exact = prroi_pool(x, rois, (3, 2))
    coarse, fine = (relative(roi_align(x, rois, (3, 2), 1.0, n), exact) for n in (50, 800))
    assert fine < 5e-6
    assert fine < coarse / 100  # midpoint sums converge with the square of their number


def test_precise_thin_boxes_keep_their_digits() -> None:
    x = linear(20, 20)
    for width in (1e-1, 1e-2, 1e-3):
        out = prroi_pool(x, box(7.25, 3.0, 7.25 + width, 5.0), 1).item()
        assert out == pytest.approx(4 * 4.0 + 7.25 + width / 2, rel=1e-4)


@pytest.mark.parametrize("twin", [False, True], ids=["compiled", "twin"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_precise_gradcheck_with_coordinates(channels_last: bool, twin: bool) -> None:
    x = features((2, 2, 5, 6), torch.float64, channels_last)
    batch = torch.tensor([[0.0], [1], [1], [0], [1]], dtype=torch.float64)
    coordinates = torch.tensor(
        [
            [2.3, 1.1, 9.7, 8.2],
            [-2.7, -1.4, 10.3, 9.1],
            [5.2, 3.3, 7.9, 4.1],
            [30, 30, 40, 40],
            [3.1, 2.2, 15.7, 16.3],
        ],
        dtype=torch.float64,
        requires_grad=True,
    )

    def run(value: Tensor, xyxy: Tensor) -> Tensor:
        return prroi_pool(value, torch.cat([batch, xyxy], 1), (2, 3), 0.5)

    if twin:
        with reference_twins():
            assert torch.autograd.gradcheck(run, (x, coordinates))
    else:
        assert torch.autograd.gradcheck(run, (x, coordinates))


def test_precise_coordinate_gradient_of_levels() -> None:
    maps = [features((2, 5, 12, 12), torch.float64, seed=s) for s in (1, 2)]
    rois = awkward_rois(2, 24, 24, torch.float64)
    rois[:, 1:] += 0.137  # off whole cells, where the twin's pieces meet and autograd takes either
    rois.requires_grad_()
    levels = torch.arange(len(rois)) % 2

    def run() -> tuple[Tensor, ...]:
        out = prroi_pool(maps, rois, 3, [0.5, 0.25], levels=levels)
        return torch.autograd.grad(
            (out * torch.linspace(0, 1, out.numel()).view(out.shape)).sum(), [*maps, rois]
        )

    ours = run()
    with reference_twins():
        twin = run()
    for a, b in zip(ours, twin, strict=True):
        assert relative(a, b) <= 1e-12
    assert not ours[-1][:, 0].any()


def test_precise_module() -> None:
    x = features((1, 2, 6, 6)).detach()
    assert torch.equal(PrRoIPool(2, 0.5)(x, box(1, 1, 9, 9)), prroi_pool(x, box(1, 1, 9, 9), 2, 0.5))


# ------------------------------------------------------------------ legacy RoIAlign


def test_legacy_by_hand() -> None:
    x = linear(4, 4)
    # step (2 - 0 + 1) / 2 = 1.5: points 0, 1.5, 3
    out = roi_align_legacy(x, box(0, 0, 2, 2), 3)[0, 0]
    assert out.tolist() == [[0, 1.5, 3], [6, 7.5, 9], [12, 13.5, 15]]
    # points 0.5, 2, 3.5: beyond the last cell but on the map, the last pair of cells is extrapolated
    out = roi_align_legacy(x, box(0.5, 0.5, 2.5, 2.5), 3)[0, 0]
    assert out.tolist() == [[2.5, 4, 5.5], [8.5, 10, 11.5], [14.5, 16, 17.5]]
    # points 2, 3.5, 5: the last is outside and gives 0; so is anything negative
    out = roi_align_legacy(x, box(2, 2, 4, 4), 3)[0, 0]
    assert out.tolist() == [[10, 11.5, 0], [16, 17.5, 0], [0, 0, 0]]
    assert roi_align_legacy(x + 1, box(-0.5, 0, 1, 1), 2)[0, 0].tolist() == [[0, 3], [0, 11]]
    # a size below -1 is no size: every point is the corner
    assert roi_align_legacy(x, box(3, 2, 1, 1), 2)[0, 0].tolist() == [[11, 11], [11, 11]]


def test_legacy_plus_one_is_in_cells() -> None:
    # scale 1/2: (8 - 0) / 2 + 1 = 5 cells over 2 points: 0 and 5
    assert roi_align_legacy(linear(8, 8), box(0, 0, 8, 8), 2, 0.5)[0, 0].tolist() == [[0, 5], [20, 25]]


def test_legacy_gradient_reaches_the_map() -> None:
    """The published CPU backward scatters only outside the map; ours is the gradient of the forward."""
    x = linear(4, 4).requires_grad_()
    (grad,) = torch.autograd.grad(roi_align_legacy(x, box(0, 0, 2, 2), 3)[0, 0, 1, 1], x)
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3] = 0.25
    assert torch.equal(grad[0, 0], expected)


def test_legacy_modules_pool_a_larger_grid() -> None:
    x = features((2, 5, 10, 11))
    rois = awkward_rois(2, 40, 44)
    grid = roi_align_legacy(x, rois, (4, 3), 0.25)
    average = RoIAlignAvg(3, 2, 0.25)(x, rois)
    assert average.shape == (len(rois), 5, 3, 2)
    assert torch.equal(average, functional.avg_pool2d(grid, 2, 1))
    assert torch.equal(RoIAlignMax(3, 2, 0.25)(x, rois), functional.max_pool2d(grid, 2, 1))
    (grad,) = torch.autograd.grad(average.sum(), x)
    assert bool(grad.any())
    assert repr(RoIAlignAvg(3, 2, 0.25)) == (
        "RoIAlignLegacy(output_size=(3, 2), spatial_scale=0.25, pooling='avg')"
    )


def test_legacy_refuses_sides_under_two() -> None:
    x = torch.randn(1, 1, 5, 5, generator=generator())
    with pytest.raises(ValueError, match="output_size must be at least 2"):
        roi_align_legacy(x, box(0, 0, 2, 2), (1, 3))
    with pytest.raises(ValueError, match="map must be at least 2"):
        roi_align_legacy(x[:, :, :1], box(0, 0, 2, 2), 3)
    with pytest.raises(ValueError, match="output_size must be at least 2"):
        RoIAlignAvg(0, 3, 1.0)(x, box(0, 0, 2, 2))
