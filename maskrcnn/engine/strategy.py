"""How one process or several train a model: what a step calls, and the whole state on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from maskrcnn.engine.distributed import Ranks
from maskrcnn.weights.restore import restore_model, restore_optimizer


@dataclass
class Strategy:
    """One process: the model as it is.

    The four methods for states are called on all ranks at once, since a strategy that shards a model gathers
    and deals out there; every rank gives and takes the whole.  Only where a rank is gone rank 0 saves alone.

    ranks: the processes; all of them make the same strategy.
    model: itself, on its device: its layers have their own names, and it predicts.  Its optimizer is built
        after this, its weights may be loaded after this.
    """

    ranks: Ranks
    model: nn.Module

    #: Whether a rank that ran out of memory can do what the others wait for, so that all begin anew.
    completes = False

    def __post_init__(self) -> None:
        #: What a step calls, as it would call the model.
        self.module = self.model

    def no_sync(self) -> AbstractContextManager[object]:
        """Context of a pass whose gradients stay this rank's own, since another pass of the step follows."""
        return nullcontext()

    def begun_before(self) -> AbstractContextManager[object]:
        """Context of a pass in place of one of :attr:`module` that failed on this rank alone."""
        return nullcontext()

    def complete_backward(self) -> None:
        """Take part to the end in a backward pass that failed on this rank alone; gradients mean nothing."""

    def model_state(self) -> dict[str, Tensor]:
        """The state dict of the whole model."""
        return self.model.state_dict()

    def load_model(self, state: Mapping[str, Tensor], source: Path | str) -> None:
        """See :func:`maskrcnn.weights.restore.restore_model`."""
        restore_model(self.model, state, source)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state dict of the whole optimizer."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: Optimizer, state: Mapping[str, Any], source: Path | str) -> None:
        """See :func:`maskrcnn.weights.restore.restore_optimizer`."""
        restore_optimizer(optimizer, state, source)


class DataParallel(Strategy):
    """The whole model on every rank, and gradients averaged over the ranks (DistributedDataParallel)."""

    completes = True

    def __post_init__(self) -> None:
        self._wrapped = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        self.module = self._wrapped
        #: Parameters whose gradient the pass under way has given.
        self._given: set[int] = set()
        for place, parameter in enumerate(self._trained):
            parameter.register_post_accumulate_grad_hook(partial(_give, self._given, place))
        self.module.register_forward_pre_hook(lambda *_: self._given.clear())

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @contextmanager
    def begun_before(self) -> Iterator[None]:
        """See :class:`Strategy`: the buffers were handed to the ranks by the pass that failed."""
        self._wrapped.require_forward_param_sync = False
        yield

    def complete_backward(self) -> None:
        """See :class:`Strategy`: the parameters that are left give zeros."""
        left = [p for place, p in enumerate(self._trained) if place not in self._given]
        if left:
            torch.stack([p.flatten()[0] * 0 for p in left]).sum().backward()

    def no_sync(self) -> AbstractContextManager[object]:
        """See :class:`Strategy`."""
        return self._wrapped.no_sync()


def _give(given: set[int], place: int, _: Tensor) -> None:
    """Of no object: what a parameter's hook holds is never collected, and gloo's threads would stay."""
    given.add(place)


def choose_strategy(ranks: Ranks, model: nn.Module) -> Strategy:
    """The strategy for so many processes."""
    return Strategy(ranks, model) if ranks.group is None else DataParallel(ranks, model)
