"""One optimizer step: forward and backward passes, clipping and the update; it knows no log or file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.data.workers import LostWorkerError, StalledError
from maskrcnn.engine import faults
from maskrcnn.engine.checkpoint import Part, Parts
from maskrcnn.engine.distributed import Ranks, lost_rank
from maskrcnn.engine.optim import clip_gradients, clip_unread
from maskrcnn.engine.strategy import Strategy
from maskrcnn.engine.unread import (
    MOST_UNREAD,
    Hearing,
    UnreadFigures,
    start_momenta,
    update_unless,
    what_is_bad,
)
from maskrcnn.errors import UserError
from maskrcnn.modeling.precision import Precision, autocast
from maskrcnn.structures import Batch, ImageInfo
from maskrcnn.structures.seeds import seed_step


class Wishes(NamedTuple):
    """What a rank asks of all ranks after a step: to stop, to write a checkpoint."""

    stop: bool = False
    save: bool = False


@dataclass(frozen=True)
class StepResult:
    """A step that was made.

    losses: name -> mean over passes and ranks.
    wishes: those of any rank that :meth:`Step.queue` gave.
    images: how many, over all ranks.
    grad_norm: before clipping.
    waiting: seconds that this rank waited for its batches.
    """

    losses: dict[str, float]
    wishes: Wishes
    images: int
    grad_norm: float
    waiting: float


@dataclass(eq=False)
class NotMadeError(Exception):
    """A step was given up before its update: weights, optimizer, rates and statistics are as before it.

    infos: the images that this rank had got.
    """

    infos: Sequence[ImageInfo]


class NoMemoryError(NotMadeError):
    """Memory ran out, on this rank at least."""


@dataclass(eq=False)
class AbandonedError(NotMadeError):
    """A batch does not come, or a rank is gone; ``why`` is None where that is since all were told to stop."""

    why: UserError | None


@dataclass(eq=False)
class NotFiniteError(NotMadeError):
    """A loss, or the gradient, is not finite, on all ranks; ``what`` has a phrase for each.

    step: how many steps are whole; none after it changed anything.
    """

    what: list[str]
    step: int


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


class _Made(NamedTuple):
    """A step that was queued, and the learning rates before it."""

    step: int
    infos: list[ImageInfo]
    wishes: Wishes
    waiting: float
    rates: list[float]


@dataclass
class Step:
    """Makes one optimizer step after the other; each is a function of (seed, step, rank) and the state.

    strategy: of the model, which is called as ``model(images, targets, seeds)``, and with ``proposals=``
        where the batch has them; returns name -> scalar loss.
    optimizer: of the model's parameters.
    rate: step (from 0) -> learning rate; groups of parameters may have a factor on it, ``rate``.
    seed: with step and rank it decides every random number.
    precision: of the forward pass.  bfloat16 has float32's range; float16's gradients underflow without a
        scaler (Micikevicius et al. 2018, section 3.2).
    accumulate: forward passes an optimizer step; gradients are their mean.
    clip_grad_norm: largest L2 norm of all gradients together; None: no clipping.
    deferred: figures stay on the device until :meth:`read`, so that :meth:`queue` never waits for it.  None:
        on a GPU; a CPU has made each step before the next anyway.
    """

    strategy: Strategy
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    _: KW_ONLY
    seed: int
    precision: Precision
    accumulate: int = 1
    clip_grad_norm: float | None = None
    deferred: bool | None = None

    def __post_init__(self) -> None:
        self.ranks = self.strategy.ranks
        self.parameters = [p for p in self.strategy.model.parameters() if p.requires_grad]
        self._scaler = torch.amp.GradScaler(self.ranks.device.type, enabled=self.precision == "float16")
        deferred = self.ranks.device.type == "cuda" if self.deferred is None else self.deferred
        self._unread = UnreadFigures(self.ranks) if deferred else None
        self._hearing = Hearing(self.ranks)
        self._made: list[_Made] = []
        self._figures: list[tuple[dict[str, float], float]] = []

    def parts(self) -> Parts:
        """The state that steps change."""
        strategy, optimizer, scaler = self.strategy, self.optimizer, self._scaler
        return {
            "model": Part(strategy.model_state, strategy.load_model),
            "optimizer": Part(
                lambda: strategy.optimizer_state(optimizer),
                lambda state, source: strategy.load_optimizer(optimizer, state, source),
            ),
            "scaler": Part(scaler.state_dict, lambda state, _: scaler.load_state_dict(state), default=dict),
        }

    @property
    def full(self) -> bool:
        """Whether what was queued has to be read before more is."""
        return len(self._made) >= (1 if self._unread is None else MOST_UNREAD)

    def take(self, step: int, source: Iterator[Batch], wishes: Callable[[], Wishes]) -> StepResult:
        """Make a step and read it: :meth:`queue`, then :meth:`read`."""
        self.queue(step, source, wishes)
        return self.read()[-1]

    def queue(self, step: int, source: Iterator[Batch], wishes: Callable[[], Wishes]) -> Wishes:
        """Make the step after ``step`` finished ones, with the next ``accumulate`` batches of ``source``.

        Where steps are deferred it is not known yet whether its figures are finite.  If they are not, it has
        changed nothing, nor does any step after it, and :meth:`read` says so.

        Args:
            wishes: this rank's, asked for before the last backward pass.

        Returns:
            the wishes of any rank; of several ranks with deferred steps those of the step before.

        Raises:
            NotMadeError: one of its kinds; no trace of the step is left.
        """
        infos: list[ImageInfo] = []
        sums: dict[str, Tensor] = {}
        waiting = 0.0
        lr = self.rate(step)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        with self._undone_if_not_made(infos, wishes, rates) as statistics:
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group.get("rate", 1.0)
            self.optimizer.zero_grad(set_to_none=True)
            for micro in range(self.accumulate):
                began = time.perf_counter()
                batch = next(source)
                waiting += time.perf_counter() - began
                infos += batch.infos
                batch = batch.to(self.ranks.device)
                seed_step(self.seed, step, self.ranks.rank, micro)
                given = {} if batch.proposals is None else {"proposals": batch.proposals}
                final = micro == self.accumulate - 1
                with nullcontext() if final else self.strategy.no_sync():
                    with autocast(self.ranks.device, self.precision):
                        args = (batch.images, batch.targets, batch.seeds)
                        losses: dict[str, Tensor] = self.strategy.module(*args, **given)
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value.detach().float() / self.accumulate
                    # Before the last backward pass: the sum over the ranks goes on while that runs.
                    if final and self._unread is None:
                        finish = read_back(self.ranks, sums, wishes())
                    elif final and self._unread is not None:
                        self._unread.add_losses(sums)
                    total = torch.stack([value.float() for value in losses.values()]).sum()
                    self._scaler.scale(total / self.accumulate).backward()
            if self._unread is None:
                means, wished = finish()
                self._figures = [(means, self._judge_and_clip(step, infos, means))]
            else:
                wished = Wishes(*self._hearing(wishes()))
                self._scaler.unscale_(self.optimizer)
                norm = clip_unread(self.parameters, self.clip_grad_norm)
                self._unread.add_norm(norm, must_be_finite=not self._scaler.is_enabled())
            if self._unread is not None or self._scaler.is_enabled():
                start_momenta(self.optimizer)
        if self._unread is None:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            update_unless(self._unread.bad, self.optimizer, self._scaler, statistics)
        self._made.append(_Made(step, infos, wished, waiting, rates))
        return wished

    def read(self) -> list[StepResult]:
        """The steps queued since the last reading, once they are done; waits for the device.

        Raises:
            NotFiniteError: the first of them whose figures are not finite; the state is as before it.
        """
        made, self._made = self._made, []
        figures = self._figures if self._unread is None else self._unread.read()
        self._figures = []
        for one, (means, norm) in zip(made, figures, strict=True):
            if bad := what_is_bad(means, None if self._scaler.is_enabled() else norm):
                self._set_rates(one.rates)
                raise NotFiniteError(one.infos, bad, one.step)
        return [
            StepResult(means, one.wishes, len(one.infos) * self.ranks.size, norm, one.waiting)
            for one, (means, norm) in zip(made, figures, strict=True)
        ]

    def _judge_and_clip(self, step: int, infos: list[ImageInfo], means: dict[str, float]) -> float:
        """The gradient's norm before clipping, where all is finite."""
        # The same on all ranks, since the losses were summed over them, as the gradients were.
        if bad := what_is_bad(means, None):
            raise NotFiniteError(infos, bad, step)
        self._scaler.unscale_(self.optimizer)
        most = math.inf if self.clip_grad_norm is None else self.clip_grad_norm
        norm = clip_gradients(self.parameters, most)
        if not self._scaler.is_enabled() and (bad := what_is_bad({}, norm)):  # else it skips the step itself
            raise NotFiniteError(infos, bad, step)
        return norm

    @contextmanager
    def _undone_if_not_made(
        self, infos: list[ImageInfo], wishes: Callable[[], Wishes], rates: list[float]
    ) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Turn what ends a step early into a kind of :class:`NotMadeError`, and put back what it changed.

        Args:
            rates: those before the step.

        Yields:
            buffers that the step may change, with copies.
        """
        statistics = self._statistics()
        try:
            yield statistics
        except (NotMadeError, RuntimeError, MemoryError, StalledError, LostWorkerError) as error:
            reason = error if isinstance(error, NotMadeError) else self._reason(error, infos, wishes)
            if reason is None:
                raise
            for buffer, copy in statistics:
                buffer.copy_(copy)
            self._set_rates(rates)
            if self._unread is not None:
                self._unread.keep(len(self._made))
            raise reason from (None if reason is error else error)

    def _set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _reason(
        self, error: Exception, infos: list[ImageInfo], wishes: Callable[[], Wishes]
    ) -> NotMadeError | None:
        """Why the step ends; None where ``error`` is a fault of the code."""
        if faults.is_out_of_memory(error):
            return NoMemoryError(infos)
        if isinstance(error, LostWorkerError):
            return AbandonedError(infos, error)
        if isinstance(error, StalledError):
            return AbandonedError(infos, None)
        if self.ranks.size == 1 or not faults.is_lost_rank(error):
            return None
        # While all are told to stop, a rank that did so first is missing in the others' sums.
        return AbandonedError(infos, None if wishes().stop else faults.LostRankError(lost_rank()))

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers that a forward pass changes, with copies, where a step may be given up after one."""
        if self.accumulate == 1 and self.ranks.size == 1 and self._unread is None:
            return []
        return [
            (buffer, buffer.clone())
            for module in self.strategy.model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.training
            for buffer in module.buffers(recurse=False)
        ]
