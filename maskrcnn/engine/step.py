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
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.optim import clip_gradients
from maskrcnn.engine.strategy import Strategy
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
    wishes: those of any rank.
    images: how many, over all ranks.
    grad_norm: before clipping; None where it is not computed.
    waiting: seconds that this rank waited for its batches.
    """

    losses: dict[str, float]
    wishes: Wishes
    images: int
    grad_norm: float | None
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
    """A loss, or the gradient, is not finite, on all ranks; ``what`` has a phrase for each."""

    what: list[str]


def read_back(
    ranks: Ranks, losses: Mapping[str, Tensor], wishes: Wishes
) -> Callable[[], tuple[dict[str, float], Wishes]]:
    """Queue losses for the host, summed over the ranks, with wishes riding along.

    So a GPU need not wait: what is queued on it next (the backward pass) runs meanwhile.

    Args:
        losses: name -> scalar; as many of the same names on every rank.

    Returns:
        what waits for it and gives the mean losses over the ranks (not finite where one rank's is not), and
        the wishes that any rank has, so that all do together what one wants.
    """
    flags = torch.tensor(wishes, dtype=torch.float32, device=ranks.device)
    values = ranks.sum(torch.cat([torch.stack([*losses.values()]), flags]))
    ready: torch.cuda.Event | None = None
    if values.is_cuda:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        values, ready = host.copy_(values, non_blocking=True), torch.cuda.Event()
        ready.record()

    def finish() -> tuple[dict[str, float], Wishes]:
        if ready is not None:
            ready.synchronize()
        found = values.tolist()
        means = {name: value / ranks.size for name, value in zip(losses, found, strict=False)}
        return means, Wishes(*(value > 0 for value in found[len(means) :]))

    return finish


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
    """

    strategy: Strategy
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    _: KW_ONLY
    seed: int
    precision: Precision
    accumulate: int = 1
    clip_grad_norm: float | None = None

    def __post_init__(self) -> None:
        self.ranks = self.strategy.ranks
        self.parameters = [p for p in self.strategy.model.parameters() if p.requires_grad]
        self._scaler = torch.amp.GradScaler(self.ranks.device.type, enabled=self.precision == "float16")

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

    def take(self, step: int, source: Iterator[Batch], wishes: Callable[[], Wishes]) -> StepResult:
        """Make the step after ``step`` finished ones, with the next ``accumulate`` batches of ``source``.

        The losses are read back only after the last backward pass has been queued, so that a GPU never
        waits for the host.

        Args:
            wishes: this rank's, asked for before the last backward pass.

        Raises:
            NotMadeError: one of its kinds; no trace of the step is left.
        """
        infos: list[ImageInfo] = []
        sums: dict[str, Tensor] = {}
        waiting = 0.0
        lr = self.rate(step)
        with self._undone_if_not_made(infos, wishes):
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
                    if final:
                        finish = read_back(self.ranks, sums, wishes())
                    total = torch.stack([value.float() for value in losses.values()]).sum()
                    self._scaler.scale(total / self.accumulate).backward()
            means, wished = finish()
            # The same on all ranks, since the losses were summed over them, as the gradients were.
            if bad := [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]:
                raise NotFiniteError(infos, bad)
            norm = self._clip_gradients(infos)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return StepResult(means, wished, len(infos) * self.ranks.size, norm, waiting)

    @contextmanager
    def _undone_if_not_made(self, infos: list[ImageInfo], wishes: Callable[[], Wishes]) -> Iterator[None]:
        """Turn what ends a step early into a kind of :class:`NotMadeError`, and put back what it changed."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        statistics = self._statistics()
        try:
            yield
        except (NotMadeError, RuntimeError, MemoryError, StalledError, LostWorkerError) as error:
            reason = error if isinstance(error, NotMadeError) else self._reason(error, infos, wishes)
            if reason is None:
                raise
            for buffer, copy in statistics:
                buffer.copy_(copy)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            raise reason from (None if reason is error else error)

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
        gone = faults.LostRankError("another process of this run is gone, see its messages")
        return AbandonedError(infos, None if wishes().stop else gone)

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers that a forward pass changes, with copies, where a step may be given up after one."""
        if self.accumulate == 1 and self.ranks.size == 1:
            return []
        return [
            (buffer, buffer.clone())
            for module in self.strategy.model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.training
            for buffer in module.buffers(recurse=False)
        ]

    def _clip_gradients(self, infos: list[ImageInfo]) -> float | None:
        """Clip, and check; on a GPU without clipping neither, since the norm would have to be waited for."""
        if self.clip_grad_norm is None and self.ranks.device.type == "cuda":
            return None
        self._scaler.unscale_(self.optimizer)
        norm = clip_gradients(
            self.parameters, math.inf if self.clip_grad_norm is None else self.clip_grad_norm
        )
        if not self._scaler.is_enabled() and not math.isfinite(norm):  # else it skips the step itself
            raise NotFiniteError(infos, [f"the gradient's norm is {norm}"])
        return norm
