"""FSDP2: each rank keeps a part of each weight and of its momenta, and the whole while it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import SGD, Optimizer

from maskrcnn.engine.strategy import STRATEGIES, Strategy
from maskrcnn.weights.restore import restore_model, restore_optimizer


@STRATEGIES.register("fsdp")
class Sharded(Strategy):
    """Weights, gradients and optimizer's state dealt out over the ranks (``fully_shard``, Zhao et al. 2023).

    What is gathered at once: a stage of the backbone, the neck, the RPN, and the heads together.  Weights are
    contiguous, since ``fully_shard`` takes no others; images stay as the model lays them out.  A copy of the
    model in host memory takes the whole weights for evaluations, in which ranks make different numbers of
    passes.
    """

    def __post_init__(self) -> None:
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.data, src=0)  # as DistributedDataParallel begins
        self.built = deepcopy(self.model).cpu()
        for parameter in self.model.parameters():
            parameter.data = parameter.data.contiguous()
        mesh = init_device_mesh(self.ranks.device.type, (self.ranks.size,))
        for part in (*stages(self.model), self.model):
            sharded = fully_shard(part, mesh=mesh)
            if self.ranks.device.type == "cpu":  # gloo has no mean
                sharded.set_force_sum_reduction_for_comms(enable=True)
        self.module = self.model

    def adopt(self, optimizer: Optimizer) -> None:
        """See :class:`Strategy`: torch has no fused SGD for tensors that are dealt out."""
        if isinstance(optimizer, SGD):
            for group in optimizer.param_groups:
                group.update(fused=False, foreach=True)
            optimizer._step_supports_amp_scaling = False

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """See :class:`Strategy`."""
        model: Any = self.model
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    @contextmanager
    def whole(self, *, write: bool = False) -> Iterator[nn.Module]:
        """See :class:`Strategy`; the model is in host memory, and for the body's time on the device."""
        plain, device = self.built, self.ranks.device
        plain.load_state_dict(self.model_state())
        plain.to(device)
        try:
            yield plain
        finally:
            plain.cpu()
            for parameter in plain.parameters():
                parameter.grad = None
        if write:
            self.load_model(plain.state_dict(), "the first weights")

    def own_parts(self) -> list[Tensor]:
        """See :class:`Strategy`: of each parameter what this rank keeps."""
        return [p.to_local() if isinstance(p, DTensor) else p for p in super().own_parts()]

    def model_state(self) -> dict[str, Tensor]:
        """The state dict of the whole model, in host memory; buffers are rank 0's."""
        state = {}
        for name, value in self.model.state_dict().items():
            if not isinstance(value, DTensor):
                dist.broadcast(value, src=0)
            state[name] = _whole(value)
        return state

    def load_model(self, state: Mapping[str, Tensor], source: Path | str) -> None:
        """See :class:`Strategy`."""
        own = self.model.state_dict()
        restore_model(self.model, {n: _dealt(v, own.get(n)) for n, v in state.items()}, source)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state dict of the whole optimizer, as one process has it, in host memory."""
        state = optimizer.state_dict()
        whole = {
            index: {name: _whole(value) for name, value in values.items()}
            for index, values in state["state"].items()
        }
        return {**state, "state": whole}

    def load_optimizer(self, optimizer: Optimizer, state: Mapping[str, Any], source: Path | str) -> None:
        """See :class:`Strategy`."""
        owners = [p for group in optimizer.param_groups for p in group["params"]]
        dealt = {
            index: {
                name: _dealt(value, owners[index] if index < len(owners) else None)
                for name, value in values.items()
            }
            for index, values in state.get("state", {}).items()
        }
        restore_optimizer(optimizer, {**state, "state": dealt}, source)

    @property
    def whole_alone(self) -> bool:
        """See :class:`Strategy`: other ranks' parts are theirs."""
        return False


def stages(model: nn.Module) -> list[nn.Module]:
    """Parts of ``model`` whose weights are gathered at once, the inner ones first: parts that are called.

    Of a backbone the outermost sequences of layers (its stages), then itself: one inside of another would
    be dealt out twice.
    """
    parts = [getattr(model, name, None) for name in ("backbone", "neck", "rpn")]
    found: list[nn.Module] = []
    if parts[0] is not None:
        found += _outermost(parts[0])
    found += [part for part in parts if part is not None]
    return [part for part in found if any(True for _ in part.parameters())]


def _outermost(module: nn.Module) -> Iterator[nn.Sequential]:
    """The sequences of layers below ``module`` that lie in no other one."""
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield child
        else:
            yield from _outermost(child)


def _whole(value: Any) -> Any:
    """A sharded tensor, gathered; all ranks at once."""
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.cpu() if isinstance(value, Tensor) else value


def _dealt(value: Any, like: Tensor | None) -> Any:
    """A whole tensor as this rank's part of it, where ``like`` is dealt out and has its shape."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    # Every rank has the whole: nothing is sent.
    return distribute_tensor(
        value.to(like.device).contiguous(), like.device_mesh, like.placements, src_data_rank=None
    )
