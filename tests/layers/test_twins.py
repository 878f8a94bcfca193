"""Every compiled operator against its slow twin: shapes, scales, types, layouts and awkward boxes.

Covers ``maskrcnn/layers/ops.py`` and ``maskrcnn/layers/reference.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.layers.cases import VARIANTS, awkward_rois, features, needs_kernels, reference_twins, relative

pytestmark = needs_kernels
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def both(
    name: str,
    maps: list[Tensor],
    rois: Tensor,
    size: tuple[int, int],
    scales: list[float],
    levels: Tensor | None,
) -> list[tuple[Tensor, list[Tensor]]]:
    """Output and gradients of the compiled operator, then of its twin."""
    operator = VARIANTS[name]
    results = []

    def run() -> None:
        if levels is None:
            out = operator(maps[0], rois, size, spatial_scale=scales[0])
        else:
            out = operator(maps, rois, size, spatial_scale=scales, levels=levels)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
        results.append((out, list(torch.autograd.grad(out, maps, weight))))

    run()
    with reference_twins():
        run()
    return results


@pytest.mark.parametrize(
    ("dtype", "channels_last"),
    [(torch.float32, False), (torch.float64, False), (torch.float64, True)],
    ids=["f32-nchw", "f64-nchw", "f64-channels_last"],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_agrees_with_twin(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    channels = 37 if channels_last else 21
    x = features((2, channels, 13, 18), dtype, channels_last)
    rois = awkward_rois(2, 52, 72, dtype)
    (a, (ga,)), (b, (gb,)) = both(name, [x], rois, (3, 4), [0.25], None)
    assert a.dtype == dtype
    assert relative(a, b) <= TOLERANCE[dtype]
    assert relative(ga, gb) <= TOLERANCE[dtype]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert a.is_contiguous(memory_format=layout)
    assert ga.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", VARIANTS)
def test_fused_levels_agree_with_twin(name: str, channels_last: bool) -> None:
    maps = [
        features((2, 19, 16, 20), torch.float64, channels_last, 1),
        features((2, 19, 8, 10), torch.float64, channels_last, 2),
        features((2, 19, 4, 5), torch.float64, channels_last, 3),
    ]
    rois = awkward_rois(2, 64, 80, torch.float64)
    levels = torch.arange(len(rois)) * 2 % 3
    (a, ga), (b, gb) = both(name, maps, rois, (2, 3), [1 / 4, 1 / 8, 1 / 16], levels)
    assert relative(a, b) <= 1e-12
    for p, q in zip(ga, gb, strict=True):
        assert relative(p, q) <= 1e-12


@pytest.mark.parametrize("channels", [1, 2, 4, 15, 16, 64, 129, 200])
@pytest.mark.parametrize("name", ["aligned_adaptive", "align_max", "pool_round_overlap"])
def test_any_number_of_channels(name: str, channels: int) -> None:
    """Full vectors, part of one, and every mixture, in both layouts, agree with one another."""
    rois = awkward_rois(1, 40, 48)
    x = features((1, 200, 10, 12))[:, :channels].detach()
    everything = VARIANTS[name](features((1, 200, 10, 12)), rois, 5, spatial_scale=0.25)
    grad = torch.randn(everything.shape, generator=torch.Generator().manual_seed(3))
    whole = features((1, 200, 10, 12))
    (expected,) = torch.autograd.grad(VARIANTS[name](whole, rois, 5, spatial_scale=0.25), whole, grad)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = x.clone(memory_format=layout).requires_grad_()
        out = VARIANTS[name](y, rois, 5, spatial_scale=0.25)
        assert relative(out, everything[:, :channels]) <= 1e-6
        (gradient,) = torch.autograd.grad(out, y, grad[:, :channels].clone(memory_format=layout))
        assert relative(gradient, expected[:, :channels]) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", VARIANTS)
def test_half_precision_rounds_once(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    """16-bit results are the float32 results of the same values, rounded; so are the gradients."""
    x = features((2, 35, 13, 18), dtype, channels_last)
    wide = x.detach().float().requires_grad_()
    rois = awkward_rois(2, 52, 72)
    a = VARIANTS[name](x, rois, 3, spatial_scale=0.25)
    b = VARIANTS[name](wide, rois, 3, spatial_scale=0.25)
    assert a.dtype == dtype
    torch.testing.assert_close(a, b.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    (ga,) = torch.autograd.grad(a, x, grad)
    (gb,) = torch.autograd.grad(b, wide, grad.float())
    assert ga.dtype == dtype
    torch.testing.assert_close(ga, gb.to(dtype), rtol=torch.finfo(dtype).eps, atol=2e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_rois(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for channels_last in (False, True):
            x = features((2, 6, 5, 7), dtype, channels_last)
            out = VARIANTS[name](x, torch.zeros(0, 5), 3, spatial_scale=0.5)
            assert out.shape == (0, 6, 3, 3)
            (grad,) = torch.autograd.grad(out.sum(), x)
            assert grad.shape == x.shape
            assert not grad.any()


@pytest.mark.parametrize("name", VARIANTS)
def test_no_channels_and_no_images(name: str) -> None:
    none = torch.zeros(0, 5)
    some = torch.tensor([[0, 1.0, 1.0, 4.0, 4.0]])
    assert VARIANTS[name](torch.zeros(1, 0, 5, 5), some, 2, spatial_scale=1.0).shape == (1, 0, 2, 2)
    assert VARIANTS[name](torch.zeros(0, 3, 5, 5), none, 2, spatial_scale=1.0).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_any_strides(name: str) -> None:
    """Slices and permutations of larger tensors, read in place or copied, give what a plain copy gives."""
    big = features((3, 30, 20, 22)).detach()
    last = big.contiguous(memory_format=torch.channels_last)
    rois = awkward_rois(2, 40, 36)
    for view in (
        big[1:, 4:25, :, :],  # planes in place
        last[1:, 4:25, 2:, 3:],  # pixels in place
        big[1:, 4:25, 2:, 3:],  # neither
        big[1:, 4:25].transpose(2, 3),
        big[:1, 4:25].expand(2, -1, -1, -1),
        big[1:, :1],
        last[1:, :1, :, ::2],
    ):
        x = view.clone(memory_format=torch.contiguous_format)
        a, b = (VARIANTS[name](t, rois, 3, spatial_scale=0.5) for t in (view, x))
        assert relative(a, b) <= 1e-6
        leaf = view.clone(memory_format=torch.preserve_format).requires_grad_()
        grad = torch.randn_like(a).transpose(2, 3)  # a gradient of odd strides too
        (ga,) = torch.autograd.grad(VARIANTS[name](leaf, rois, 3, spatial_scale=0.5), leaf, grad)
        x.requires_grad_()
        (gb,) = torch.autograd.grad(VARIANTS[name](x, rois, 3, spatial_scale=0.5), x, grad.contiguous())
        assert relative(ga, gb) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["aligned_adaptive", "align_max", "random", "precise", "pool_round_overlap"])
def test_same_bits_for_any_number_of_threads(name: str, channels_last: bool, dtype: torch.dtype) -> None:
    x = [features((2, 48, 24, 20), dtype, channels_last), features((2, 48, 12, 10), dtype, channels_last)]
    rois = awkward_rois(2, 96, 80).repeat(4, 1)
    rois[:, 1:] += torch.linspace(0, 9, len(rois))[:, None]
    levels = torch.arange(len(rois)) % 2
    rois.requires_grad_(name == "precise")
    inputs = [*x, rois] if name == "precise" else x
    before = torch.get_num_threads()
    seen = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            out = VARIANTS[name](x, rois, 7, spatial_scale=[0.25, 0.125], levels=levels)
            weight = torch.linspace(-1, 1, out.numel()).view(out.shape).to(dtype)
            seen.append([out, *torch.autograd.grad(out, inputs, weight)])
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        for p, q in zip(seen[0], other, strict=True):
            assert torch.equal(p, q)
