"""Batch normalisation of all rows and of some, in one process; of two: tests/engine/two_ranks.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from maskrcnn.modeling.norms import BatchNorm2d, GroupNorm, NormName, SyncBatchNorm, make_norm


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


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", ["bn", "sync_bn"])
@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_statistics_are_of_the_real_rows(name: NormName, count: int) -> None:
    """As torch's of those rows alone, whatever the others hold."""
    torch.manual_seed(count)
    norm, plain = make_norm(name, 3).double(), nn.BatchNorm2d(3).double()
    assert isinstance(norm, BatchNorm2d | SyncBatchNorm)
    for layer in (norm, plain):
        nn.init.uniform_(layer.weight)
        layer.load_state_dict(norm.state_dict())
    for step in range(3):
        rows = torch.randn(count, 3, 4, 5, dtype=torch.float64) * 2 + step
        grad = torch.randn_like(rows)
        real = torch.rand(7).argsort() < count
        x = torch.full((7, 3, 4, 5), 1e6, dtype=torch.float64)
        x[real] = rows
        x, rows = x.requires_grad_(), rows.requires_grad_()
        norm.real = real
        got, wanted = norm(x), plain(rows)
        assert got.isfinite().all()
        torch.testing.assert_close(got[real], wanted, rtol=1e-12, atol=1e-12)
        got[real].backward(grad)
        wanted.backward(grad)
        assert x.grad is not None and rows.grad is not None
        torch.testing.assert_close(x.grad[real], rows.grad, rtol=1e-10, atol=1e-12)
        assert not x.grad[~real].any()
    for mine, other in zip(norm.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-12)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[key], value, rtol=1e-12, atol=1e-12)
    assert torch.equal(norm.eval()(x), plain.eval()(x)) == (count == 0)  # rounding of the statistics else
    norm.real = None
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm.train()(x), plain.train()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, plain = make_norm("bn", 3), nn.BatchNorm2d(3)
    assert isinstance(norm, BatchNorm2d)
    x = (torch.randn(6, 3, 9, 7) * 3 + 50).to(dtype)
    norm.real = torch.tensor([True, False, True, True, False, False])
    got, wanted = norm(x), plain(x[norm.real].float())
    assert got.dtype == dtype
    unit = torch.finfo(dtype).eps
    assert (got[norm.real].float() - wanted).abs().max() <= unit * wanted.abs().max()
    torch.testing.assert_close(norm.running_var, plain.running_var, rtol=1e-5, atol=0)


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


class _OfReal(nn.Module):
    """A norm of the rows that are real, how many is not known."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(x[real])
        return found


@pytest.mark.parametrize("name", ["frozen_bn", "bn", "sync_bn", "gn"])
def test_an_exported_norm_asks_nothing_of_the_number_of_rows(name: NormName) -> None:
    torch.manual_seed(0)
    norm = make_norm(name, 8).eval()
    for value in norm.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.5)
    x = torch.randn(6, 8, 3, 3)
    real = torch.tensor([True, False, True, True, False, True])
    model = _OfReal(norm)
    graph = torch.export.export(model, (x, real)).module()
    for rows in (real, ~real, torch.arange(6) == 2):
        torch.testing.assert_close(graph(x, rows), model(x, rows))
