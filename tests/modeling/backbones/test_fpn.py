"""The pyramid's top-down path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.modeling.backbones.fpn import add_upsampled


def maps(coarse: tuple[int, int], fine: tuple[int, int], dtype: torch.dtype, last: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    layout = torch.channels_last if last else torch.contiguous_format
    return [
        torch.randn(2, 5, *size, generator=generator, dtype=torch.float64)
        .to(dtype, memory_format=layout)
        .requires_grad_()
        for size in (fine, coarse)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("sizes", [((3, 4), (6, 8)), ((1, 1), (2, 2)), ((3, 4), (5, 7)), ((2, 3), (4, 5))])
def test_is_nearest_neighbour_and_a_sum(
    sizes: tuple[tuple[int, int], tuple[int, int]], last: bool, dtype: torch.dtype
) -> None:
    ours, theirs = maps(*sizes, dtype, last), maps(*sizes, dtype, last)
    out = add_upsampled(*ours)
    expected = theirs[0] + F.interpolate(theirs[1], size=sizes[1], mode="nearest")
    assert out.dtype == dtype
    assert out.equal(expected)
    if last and min(sizes[0]) > 1:
        assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(out)
    out.backward(grad)
    expected.backward(grad)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.05)


def test_gradient() -> None:
    assert torch.autograd.gradcheck(add_upsampled, maps((2, 3), (4, 6), torch.float64, True))
