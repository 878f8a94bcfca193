"""Whether a step's figures are finite, and its update, which is left out where they are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.config.registry import Named
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.optim import clip_gradients
from maskrcnn.engine.outcomes import NoMemoryError, NotFiniteError, Wishes
from maskrcnn.engine.passes import Passed


class Figures(NamedTuple):
    """Of a step.

    losses: name -> mean over the ranks.  norm: of the gradient.
    lost: whether a rank ran out of memory in it: then the rest means nothing.
    """

    losses: dict[str, float]
    norm: float
    lost: bool = False


class Judge:
    """Reads the figures of each step before its update, for which it waits for the device.

    ranks: the processes; all of them judge the same steps, and alike.
    parameters: whose gradients are clipped.
    scaler: where it is enabled it leaves steps out itself whose gradient is not finite.
    clip_grad_norm: largest L2 norm of all gradients together; None: no clipping.
    max_skipped: so many steps in a row whose figures are not finite are left out.
    """

    #: How many steps may be queued before :meth:`read`.
    most_unread = 1

    def __init__(
        self,
        ranks: Ranks,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        clip_grad_norm: float | None,
        max_skipped: int,
    ) -> None:
        self._ranks, self._parameters = ranks, parameters
        self._optimizer, self._scaler = optimizer, scaler
        self._clip, self._most = clip_grad_norm, max_skipped
        #: Steps that were left out, in all and in a row, as far as they were read.
        self.skipped, self.row = 0, 0
        #: Whether a rank ran out of memory in a step that is not read yet, as far as that is known.
        self.lost = False
        self._figures: list[Figures] = []
        self._bad: list[str] = []
        self._finish: Callable[[], tuple[dict[str, float], Wishes]] = lambda: ({}, Wishes())

    def send(self, losses: Mapping[str, Tensor], wishes: Callable[[], Wishes]) -> None:
        """Begin to sum the losses of a step over the ranks: name -> scalar, as many on every rank."""
        self._finish = read_back(self._ranks, losses, wishes())

    def judge(self, done: Passed, ran_out: bool, lost: Tensor | None, heard: Wishes | None = None) -> Wishes:
        """Decide whether the step is made, and clip its gradients.

        Args:
            ran_out, lost: see :meth:`maskrcnn.engine.passes.Passes.make`.
            heard: the wishes that were heard when it was queued before.

        Returns:
            the wishes of any rank; of several ranks that judge later those of the step before.

        Raises:
            NoMemoryError, NotFiniteError: it is not made, on all ranks; where figures are read at once.
        """
        if lost is not None and lost.item() > 0:
            raise NoMemoryError(done.infos, done.step)
        means, wished = self._finish()
        norm = math.nan
        # The same on all ranks, since the losses were summed over them, as the gradients were.
        self._bad = what_is_bad(means, None)
        if not self._bad:
            self._scaler.unscale_(self._optimizer)
            norm = clip_gradients(self._parameters, math.inf if self._clip is None else self._clip)
            self._bad = what_is_bad({}, self._norm_to_judge(norm))
        self._figures = [Figures(means, norm)]
        if self._bad and self.row >= self._most:
            raise NotFiniteError(done.infos, self._bad, done.step)
        if self._scaler.is_enabled():
            start_momenta(self._optimizer)
        return wished

    def _norm_to_judge(self, norm: float) -> float | None:
        return None if self._scaler.is_enabled() else norm

    def update(self, statistics: Sequence[tuple[Tensor, Tensor]], also: Callable[..., object]) -> None:
        """Make the update of the step that was judged, unless it is left out: then nothing is changed.

        Args:
            statistics: buffers that the forward pass has changed, with their copies from before.
            also: what is done besides: without an argument, or with a bool scalar that says on the device
                whether it is to change nothing.
        """
        if self._bad:
            for buffer, copy in statistics:
                buffer.copy_(copy)
            return
        self._scaler.step(self._optimizer)
        self._scaler.update()
        also()

    def read(self) -> list[Figures]:
        """Of the steps since the last reading, once they are done; they are forgotten."""
        figures, self._figures = self._figures, []
        self.lost = False
        return figures

    def count(self, figures: Figures) -> tuple[list[str], bool]:
        """A phrase for each figure of a step that is not finite; whether it is one such step too many."""
        bad = what_is_bad(figures.losses, self._norm_to_judge(figures.norm))
        self.row = self.row + 1 if bad else 0
        if self.row > self._most:
            self.row = 0
            return bad, True
        self.skipped += bool(bad)
        return bad, False

    def keep(self, count: int) -> None:
        """Forget all but the first ``count`` unread steps: the one after them was not made."""

    def begin(self) -> None:
        """Steps count anew; the last :attr:`row` were left out."""


#: What judges steps later, where that pays: of the arguments of :class:`Judge`.
JUDGES: Named[Callable[..., Judge]] = Named("judge", "maskrcnn.engine", later="unread")


def what_is_bad(losses: Mapping[str, float], norm: float | None) -> list[str]:
    """A phrase for each figure that is not finite; ``norm`` of the gradient, None where that may be so."""
    found = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if not found and norm is not None and not math.isfinite(norm):
        found = [f"the gradient's norm is {norm}"]
    return found


def read_back(
    ranks: Ranks, losses: Mapping[str, Tensor], wishes: Wishes
) -> Callable[[], tuple[dict[str, float], Wishes]]:
    """Sum losses over the ranks, with wishes riding along.

    Args:
        losses: name -> scalar; as many of the same names on every rank.

    Returns:
        what gives the mean losses over the ranks (not finite where one rank's is not), and the wishes that
        any rank has, so that all do together what one wants.
    """
    flags = torch.tensor(wishes, dtype=torch.float32, device=ranks.device)
    values = ranks.sum(torch.cat([torch.stack([*losses.values()]), flags]))

    def finish() -> tuple[dict[str, float], Wishes]:
        found = values.tolist()
        means = {name: value / ranks.size for name, value in zip(losses, found, strict=False)}
        return means, Wishes(*(value > 0 for value in found[len(means) :]))

    return finish


def start_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Give fused SGD its momenta, zeros, before the first step.

    A first step that is left out would else leave them uninitialised: torch's ``_fused_sgd`` makes them by
    ``empty_like`` and takes them for filled from then on.
    """
    if not isinstance(optimizer, torch.optim.SGD) or optimizer.state:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
