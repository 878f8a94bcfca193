"""Losses from the device to the host, without making a GPU wait."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from maskrcnn.engine.distributed import Ranks


class Readback:
    """Losses summed over the ranks, with the wish to stop riding along, so that all ranks stop together.

    ``start`` queues the transfer; ``finish`` waits for it.  What is queued on a GPU between the two (the
    backward pass) runs meanwhile.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._names: tuple[str, ...] = ()
        self._values: Tensor | None = None
        self._ready: torch.cuda.Event | None = None

    def start(self, losses: Mapping[str, Tensor], stop: bool) -> None:
        """Queue it.  ``losses``: name -> scalar, the same names on every rank."""
        self._names = tuple(losses)
        flag = torch.full((), float(stop), device=self._ranks.device)
        values = self._ranks.sum(torch.stack([*losses.values(), flag]))
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()
            values = host
        self._values = values

    def finish(self) -> tuple[dict[str, float], bool]:
        """Mean losses over the ranks (not finite where one rank's is not), and whether any wants to stop."""
        if self._ready is not None:
            self._ready.synchronize()
        assert self._values is not None
        *sums, flags = self._values.tolist()
        means = (value / self._ranks.size for value in sums)
        return dict(zip(self._names, means, strict=True)), flags > 0
