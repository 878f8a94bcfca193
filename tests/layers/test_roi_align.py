"""roi_align: hand-worked tables, torchvision's numbers, gradients, the worked example of the literature."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from maskrcnn.layers import RoIAlign, geometry, roi_align
from tests.layers.cases import (
    VARIANTS,
    awkward_rois,
    features,
    generator,
    needs_kernels,
    reference_twins,
    relative,
)


def count_up(side: int = 4) -> Tensor:
    """A [1, 1, side, side] map with value side * y + x in cell (y, x)."""
    return torch.arange(float(side * side)).view(1, 1, side, side)


def boxes(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor([[0, *row] for row in rows], dtype=torch.float32)


def test_hand_worked_average() -> None:
    x = count_up()
    # aligned: the box starts at 0.5; one sample a bin at 1.0 and 2.0, on cells
    out = roi_align(x, boxes((1, 1, 3, 3)), 2, sampling_ratio=1, aligned=True)
    assert out.flatten().tolist() == [5, 6, 9, 10]
    # not aligned: samples at 1.5 and 2.5, each between four cells
    out = roi_align(x, boxes((1, 1, 3, 3)), 2, sampling_ratio=1)
    assert out.flatten().tolist() == [7.5, 8.5, 11.5, 12.5]
    # not aligned, no size: taken as one cell, [1, 2]; the samples at 1.25 and 1.75 average to 1.5
    out = roi_align(x, boxes((1, 1, 1, 1)), 1, sampling_ratio=2)
    assert out.item() == 4 * 1.5 + 1.5
    # within a cell outside, the border value; further out, 0: one of the samples at -1.5 and -0.5 counts
    out = roi_align(x + 1, boxes((0, -2, 4, 0)), 1, sampling_ratio=2)
    assert out.item() == pytest.approx(((2 + 4) / 2) / 2)


def test_hand_worked_maximum() -> None:
    x = count_up().requires_grad_()
    out = roi_align(x, boxes((0, 0, 2, 2)), 1, sampling_ratio=2, aggregation="max")
    assert out.item() == 7.5  # the sample at (1.5, 1.5)
    (grad,) = torch.autograd.grad(out, x)
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3] = 0.25
    assert torch.equal(grad[0, 0], expected)


def test_maximum_counts_samples_outside_as_zero() -> None:
    x = torch.full((1, 1, 4, 4), -3.0, requires_grad=True)
    out = roi_align(x, boxes((-4, 0, 4, 4)), 1, sampling_ratio=4, aggregation="max")
    assert out.item() == 0
    assert not torch.autograd.grad(out, x)[0].any()


@pytest.mark.parametrize("twin", [False, True], ids=["compiled", "twin"])
def test_random_samples_have_the_mean_of_the_box(twin: bool) -> None:
    """On a linear map the mean over uniform positions tends to the value at the middle of each bin."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    linear = (2 * y + 3 * x)[None, None].double()
    rois = boxes((2, 3, 8, 9)).double()

    def run(seed: int, ratio: int = 30) -> Tensor:
        return roi_align(linear, rois, 2, sampling_ratio=ratio, samples="random", seed=seed)

    grid = roi_align(linear, rois, 2, sampling_ratio=2)
    if twin:
        with reference_twins():
            first, again, other, few = run(1), run(1), run(2), run(1, 2)
    else:
        first, again, other, few = run(1), run(1), run(2), run(1, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first - grid).abs().max()) < 0.35  # 5 sigma: sqrt((2^2 + 3^2) 3^2 / 12 / 900) = 0.10
    assert not torch.allclose(few, grid, atol=1e-3)


def test_random_fractions_are_uniform() -> None:
    y, x = geometry.random_fractions(3, 5, 49, 400)
    for f in (y, x):
        assert 0 <= float(f.min()) < 0.001
        assert 0.999 < float(f.max()) < 1
        assert abs(float(f.mean()) - 0.5) < 0.01  # 5 sigma of 19,600 draws
    assert abs(float(((y - 0.5) * (x - 0.5)).mean())) < 0.003


@needs_kernels
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 0, 1, 2, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-11)])
def test_torchvision(dtype: torch.dtype, tolerance: float, ratio: int, aligned: bool) -> None:
    x = features((2, 18, 25, 33), dtype)
    rois = awkward_rois(2, 100, 132, dtype)[:-1]  # torchvision takes seconds for the absurd box
    arguments = ((7, 5), 0.25, ratio, aligned)
    a = roi_align(x, rois, *arguments)
    b = torchvision.ops.roi_align(x, rois, *arguments)
    assert relative(a, b) <= tolerance
    grad = torch.randn(b.shape, generator=generator(), dtype=dtype)
    (ga,), (gb,) = (torch.autograd.grad(out, x, grad) for out in (a, b))
    assert relative(ga, gb) <= tolerance


@needs_kernels
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_multiples_never_change_the_sample_count(dtype: torch.dtype, aligned: bool) -> None:
    """Boxes whose size is a whole number of bins, at random offsets: ceil(size / bins) hangs on the last bit.

    One sample more or less moves the result by far more than the tolerance.
    """
    g = generator(7)
    count = 3000
    x = torch.randn(1, 1, 60, 60, generator=g, dtype=torch.float64).to(dtype)
    offset = (torch.rand(count, 2, generator=g, dtype=torch.float64) * 400).to(dtype)
    cells = torch.randint(1, 4, (count, 2), generator=g) * 7
    rois = torch.cat([torch.zeros(count, 1, dtype=dtype), offset, offset + cells.to(dtype) * 8], dim=1)
    size = (offset + cells.to(dtype) * 8) * 0.125 - offset * 0.125
    assert int((torch.ceil(size / 7) != cells / 7).sum()) > 20  # rounding does tip some of them
    a = roi_align(x, rois, 7, 1 / 8, 0, aligned)
    b = torchvision.ops.roi_align(x, rois, 7, 1 / 8, 0, aligned)
    assert relative(a, b) <= (5e-6 if dtype is torch.float32 else 1e-13)


def test_worked_example() -> None:
    """He et al. 2017 in numbers: an 800 x 800 image, stride 32, a 665 x 665 box, 7 x 7 bins."""
    scale, side, bins = 1 / 32, 665.0, 7
    exact = side * scale
    assert round(exact, 2) == 20.78
    assert int(exact) == 20
    assert round(int(exact) / bins, 3) == 2.857
    assert 20 // bins == 2
    first_edge_off = 20 / bins - 20 // bins  # cells
    assert round(first_edge_off, 3) == 0.857
    assert round(first_edge_off * 32, 2) == 27.43  # px; 27.52 where 0.857 is rounded to 0.86 first
    assert round(0.86 * 32, 2) == 27.52
    assert 20 - bins * (20 // bins) == 6  # cells never seen, 192 px
    assert 6 * 32 == 192

    # The operators do that: on a map that holds its own x coordinate at cell centres, RoIAlign's bins of
    # width 20.78 / 7 = 2.97 have their means where they belong, start + (p + 0.5) 2.97.
    x = (torch.arange(25.0) + 0.5).view(1, 1, 1, 25).expand(1, 1, 25, 25).double()
    roi = torch.tensor([[0, 32, 32, 32 + side, 32 + side]], dtype=torch.float64)  # a cell from the border
    align = roi_align(x, roi, bins, scale, 0, True)[0, 0, 3]
    assert round(exact / bins, 2) == 2.97
    middle = 1 + (torch.arange(7.0).double() + 0.5) * exact / bins
    torch.testing.assert_close(align, middle, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name", [n for n in VARIANTS if n.startswith(("align", "random", "warp", "legacy", "pool"))]
)
def test_gradcheck(name: str) -> None:
    # Values far apart, so that a step of 1e-6 changes no maximum.
    x = torch.randperm(2 * 2 * 4 * 5, generator=generator()).double().view(2, 2, 4, 5).requires_grad_()
    rois = torch.tensor(
        [[0, 2.3, 1.1, 8.7, 7.2], [1, -3, -2, 14, 12], [1, 5, 5, 5, 5], [0, 30, 30, 40, 40]],
        dtype=torch.float64,
    )

    def run(value: Tensor) -> Tensor:
        return VARIANTS[name](value, rois, (2, 3), spatial_scale=0.5)

    assert torch.autograd.gradcheck(run, (x,), atol=1e-6)
    assert torch.autograd.gradcheck(run, (x.detach().to(memory_format=torch.channels_last).requires_grad_(),))


def test_gradient_counts_every_sample() -> None:
    """The gradient of the sum distributes exactly the weight that lies on the map."""
    x = features((1, 4, 9, 9))
    out = roi_align(x, boxes((4, 4, 28, 28), (8, 8, 20, 30)), 3, 0.25, 2)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert float(grad.sum()) == pytest.approx(2 * 4 * 9)


def test_list_of_boxes_and_module() -> None:
    x = features((2, 3, 8, 8)).detach()
    lists = [torch.tensor([[1.0, 2, 9, 9], [0, 0, 4, 4]]), torch.tensor([[3.0, 3, 14, 10]])]
    rois = torch.cat([torch.cat([torch.full((len(b), 1), float(i)), b], 1) for i, b in enumerate(lists)])
    expected = roi_align(x, rois, (3, 2), 0.5, 2, True)
    assert torch.equal(roi_align(x, lists, (3, 2), 0.5, 2, True), expected)
    assert torch.equal(RoIAlign((3, 2), 0.5, 2, True)(x, lists), expected)
    assert roi_align(x, [torch.zeros(0, 4), lists[1]], 2, 0.5).shape == (1, 3, 2, 2)
    assert repr(RoIAlign(7, 0.25, 2)).startswith(
        "RoIAlign(output_size=7, spatial_scale=0.25, sampling_ratio=2"
    )


@needs_kernels
def test_half_precision_boxes_would_be_wrong() -> None:
    """Why RoIs stay in float32 beside bfloat16 features: at x = 900 bfloat16 steps by 4 px."""
    x = torch.arange(64.0).view(1, 1, 1, 64).expand(1, 1, 2, 64).bfloat16()
    out = roi_align(x, boxes((897, 0, 913, 16)), 1, 1 / 16, 1, True).item()
    # centre at 905 / 16 - 0.5 = 56.06
    assert out == pytest.approx(56.0625, abs=0.13)
    rounded = boxes((897, 0, 913, 16)).bfloat16().float()
    assert abs(roi_align(x.float(), rounded, 1, 1 / 16, 1, True).item() - 56.0625) > 0.06
