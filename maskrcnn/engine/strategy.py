"""How one process or several train a model: what a step calls, and the whole state on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from maskrcnn.config.registry import Named
from maskrcnn.engine.distributed import Ranks
from maskrcnn.weights.restore import restore_model, restore_optimizer


@dataclass
class Strategy:
    """One process: the model as it is.

    The four methods for states are called on all ranks at once, since a strategy that shards a model gathers
    and deals out there; every rank gives and takes the whole.  Only where a rank is gone rank 0 saves alone.

    ranks: the processes; all of them make the same strategy.
    model: itself, on its device: its layers have their own names.  It predicts, and other weights are loaded
        into it, by :meth:`whole`.  Its optimizer is built after this.
    """

    ranks: Ranks
    model: nn.Module

    #: Whether a rank that ran out of memory can do what the others wait for, so that all begin anew.
    completes = False

    def __post_init__(self) -> None:
        #: What a step calls, as it would call the model.
        self.module = self.model
        #: The model as it was built, whole, to look at: until :meth:`whole` with its first weights.
        self.built = self.model

    def no_sync(self) -> AbstractContextManager[object]:
        """Context of a pass whose gradients stay this rank's own, since another pass of the step follows."""
        return nullcontext()

    def adopt(self, optimizer: Optimizer) -> None:
        """Prepare a new optimizer of the model for steps by this."""

    @contextmanager
    def whole(self, *, write: bool = False) -> Iterator[nn.Module]:
        """A model with the whole weights, on the device: to predict with, each rank as often as it likes.

        Called on all ranks at once, as the methods for states.

        Args:
            write: take over what the body does to its weights, the same on every rank.
        """
        yield self.model

    def own_parts(self) -> list[Tensor]:
        """What is trained, as far as this rank holds it: to look at without the others."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def whole_alone(self) -> bool:
        """Whether one rank has the whole state without the others."""
        return True

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
        super().__post_init__()
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


#: Ways for several processes, by the name in ``solver.strategy``.
STRATEGIES: Named[Callable[[Ranks, nn.Module], Strategy]] = Named(
    "strategy", "maskrcnn.engine", fsdp="sharded"
)
STRATEGIES.register("ddp")(DataParallel)


def choose_strategy(ranks: Ranks, model: nn.Module, name: str = "ddp") -> Strategy:
    """The strategy for so many processes: one of :data:`STRATEGIES` where there is more than one."""
    return Strategy(ranks, model) if ranks.group is None else STRATEGIES.get(name)(ranks, model)
