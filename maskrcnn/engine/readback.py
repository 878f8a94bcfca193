"""Losses from the device to the host, without making a GPU wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskrcnn.engine.distributed import Ranks


class Readback:
    """Losses summed over the ranks, with wishes riding along, so that all ranks do together what one wants.

    ``start`` queues the transfer; ``finish`` waits for it.  What is queued on a GPU between the two (the
    backward pass) runs meanwhile.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._names: tuple[str, ...] = ()
        self._values: Tensor | None = None
        self._ready: torch.cuda.Event | None = None

    def start(self, losses: Mapping[str, Tensor], wishes: Sequence[bool]) -> None:
        """Queue it.  ``losses``: name -> scalar; as many of the same names, and wishes, on every rank."""
        self._names = tuple(losses)
        flags = torch.tensor(wishes, dtype=torch.float32, device=self._ranks.device)
        values = self._ranks.sum(torch.cat([torch.stack([*losses.values()]), flags]))
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()
            values = host
        self._values = values

    def finish(self) -> tuple[dict[str, float], list[bool]]:
        """Mean losses over the ranks (not finite where one rank's is not), and which wishes any rank has."""
        if self._ready is not None:
            self._ready.synchronize()
        assert self._values is not None
        values = self._values.tolist()
        means = {name: value / self._ranks.size for name, value in zip(self._names, values, strict=False)}
        return means, [value > 0 for value in values[len(means) :]]
