"""How one process or several train a model: what a step calls, and the whole state on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def __post_init__(self) -> None:
        #: What a step calls, as it would call the model.
        self.module = self.model

    def no_sync(self) -> AbstractContextManager[object]:
        """Context of a pass whose gradients stay this rank's own, since another pass of the step follows."""
        return nullcontext()

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

    def __post_init__(self) -> None:
        self._wrapped = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        self.module = self._wrapped

    def no_sync(self) -> AbstractContextManager[object]:
        """See :class:`Strategy`."""
        return self._wrapped.no_sync()


def choose_strategy(ranks: Ranks, model: nn.Module) -> Strategy:
    """The strategy for so many processes."""
    return Strategy(ranks, model) if ranks.group is None else DataParallel(ranks, model)
