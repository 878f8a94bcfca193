"""Synchronised batch normalisation in one process; two are in tests/engine/two_ranks.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from maskrcnn.modeling.norms import SyncBatchNorm, make_norm


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
