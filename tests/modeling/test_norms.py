"""Synchronised batch normalisation in one process; two are in tests/engine/two_ranks.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from maskrcnn.modeling.norms import GroupNorm, SyncBatchNorm, make_norm


@pytest.fixture(params=[False, True], ids=["alone", "a group of one"])
def group(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.param:
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_one_process_computes_batch_normalisation() -> None:
    torch.manual_seed(0)
    norm, plain = make_norm("sync_bn", 3), nn.BatchNorm2d(3)
    assert isinstance(norm, SyncBatchNorm)
    for _ in range(2):
        x = torch.randn(2, 3, 4, 5) * 2 + 1
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        norm(ours).square().sum().backward()
        plain(theirs).square().sum().backward()
        assert torch.equal(ours.grad, theirs.grad) and torch.equal(norm.weight.grad, plain.weight.grad)
    assert norm.num_batches_tracked == 2
    for name, value in plain.state_dict().items():
        assert torch.equal(value, norm.state_dict()[name])
    assert torch.equal(norm.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.bfloat16, (9, 7)), (torch.bfloat16, (36, 40))),
        *((torch.float16, (9, 7)), (torch.float16, (36, 40)), (torch.float32, (65, 66))),
    ],
)
def test_group_norm_is_pytorchs_of_plain_memory_rounded(dtype: torch.dtype, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    norm, plain = make_norm("gn", 64), nn.GroupNorm(32, 64)
    assert isinstance(norm, GroupNorm) and norm.num_groups == 32
    for parameter in (norm, plain):
        nn.init.normal_(parameter.weight, generator=torch.Generator().manual_seed(1))
    x = (torch.randn(2, 64, *size) * 3 + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 64, *size).to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.float().contiguous().requires_grad_()
    got, wanted = norm(ours), plain(theirs)
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    got.backward(grad)
    wanted.backward(grad.float())
    unit = torch.finfo(dtype).eps * (8 if dtype == torch.float32 else 1)  # of sums in another order
    assert (got - wanted).abs().max() <= unit * wanted.abs().max()
    assert ours.grad is not None and theirs.grad is not None
    assert (ours.grad - theirs.grad).abs().max() <= 2 * unit * theirs.grad.abs().max()
    for mine, other in zip(norm.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None and mine.grad.dtype == torch.float32
        assert (mine.grad - other.grad).norm() <= 2 * unit * other.grad.norm()


def test_group_norm_of_float32_is_pytorchs_to_the_bit() -> None:
    x = torch.randn(2, 64, 5, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(make_norm("gn", 64)(x), nn.GroupNorm(32, 64)(x))
