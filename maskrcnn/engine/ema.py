"""An average of the weights over the steps, kept beside them: smoother than any of them, and often better.

After each step ``average += (1 - d) * (weights - average)`` with ``d = min(decay, (1 + t) / (warmup + t))``,
t = steps before it: an exponential average (Polyak & Juditsky 1992 average alike) that forgets the first
weights fast, as TensorFlow's ExponentialMovingAverage(num_updates=t) does, where warmup is 10.  So d is a
function of the step, and the average itself is all the state there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maskrcnn.engine.step import AVERAGES
from maskrcnn.engine.strategy import Strategy
from maskrcnn.errors import few


@AVERAGES.register("ema")
class WeightAverage:
    """The average of what trains in a model, and of its floating-point buffers; in float32 at least.

    Whole numbers (how many batches a norm has seen) and what is frozen are the model's own.

    Args:
        strategy: of the model, with all in it that is frozen; its weights now are where the average begins.
            Each rank keeps the average of what it keeps of the weights.
        decay: the largest share that a step keeps of the average, in [0, 1).
        warmup: see the head of this module, >= 1; 1 is none.
    """

    def __init__(self, strategy: Strategy, *, decay: float, warmup: float) -> None:
        self._strategy, self._ranks = strategy, strategy.ranks
        self.decay, self.warmup = decay, warmup
        state: Mapping[str, Tensor] = strategy.model.state_dict(keep_vars=True)
        own = {
            name: tensor
            for name, tensor in state.items()
            if tensor.is_floating_point() and (tensor.requires_grad or not isinstance(tensor, nn.Parameter))
        }
        self._weights = {name: _kept_here(tensor.detach()) for name, tensor in own.items()}
        self._dealt = any(tensor.shape != self._weights[name].shape for name, tensor in own.items())
        #: Not the same on all ranks: each takes statistics of its own images.
        self._buffers = [name for name, tensor in own.items() if not isinstance(tensor, nn.Parameter)]
        self._average: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew from the weights as they are."""
        self._average = {
            name: tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in self._weights.items()
        }

    @torch.no_grad()
    def update(self, step: int, bad: Tensor | None = None) -> None:
        """Take in the weights after the step that followed ``step`` others; waits for no device.

        Args:
            bad: bool scalar on the device: whether there was no such step, and nothing is to be changed.
        """
        averages = [*self._average.values()]
        share = 1 - min(self.decay, (1 + step) / (self.warmup + step))
        factor = torch.full((), share, device=self._ranks.device)
        if bad is not None:
            factor = torch.where(bad, 0.0, factor)
        weights = [w.to(a.dtype) for w, a in zip(self._weights.values(), averages, strict=True)]
        moved = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(moved, factor)
        torch._foreach_add_(averages, moved)

    def state(self) -> dict[str, Tensor]:
        """The whole average by the names of the model's tensors; called on all ranks at once."""
        if not self._dealt:
            return dict(self._average)
        with self.applied():
            whole = self._strategy.model_state()
            return {name: whole[name].clone() for name in self._average}

    def load(self, state: Mapping[str, Tensor], source: Path) -> None:
        """Go on from ``state``, of :meth:`state`; called on all ranks at once.

        Raises:
            ValueError: it is the average of other tensors.
            CheckpointError: as ``Strategy.load_model``.
        """
        whole = self._strategy.model_state()
        other = [n for n in self._average if n not in state or state[n].shape != whole[n].shape]
        if other := other + [name for name in state if name not in self._average]:
            raise ValueError(f"it averages other weights: {few(other, 3)}")
        if not self._dealt:
            for name, tensor in self._average.items():
                tensor.copy_(state[name])
            return
        own = [tensor.clone() for tensor in self._weights.values()]
        try:
            self._strategy.load_model({**whole, **state}, source)
            self.restart()
        finally:
            self._give(own)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the model has the average for its weights; afterwards it has its own, to the
        bit.
        """
        if self._ranks.group is not None:
            for name in self._buffers:
                dist.broadcast(self._average[name], src=0)
        own = [tensor.clone() for tensor in self._weights.values()]
        try:
            self._give(self._average.values())
            yield
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, tensors: Iterable[Tensor]) -> None:
        for weight, tensor in zip(self._weights.values(), tensors, strict=True):
            weight.copy_(tensor)


def _kept_here(tensor: Tensor) -> Tensor:
    """What this rank keeps of a tensor that is dealt out over the ranks, with the same memory; else
    itself.
    """
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local
