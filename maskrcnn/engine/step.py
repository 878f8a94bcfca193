"""One optimizer step: forward and backward passes, clipping and the update; it knows no log or file.

What memory has no room for is passed in pieces; a step whose figures are not finite may be left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from maskrcnn.config.registry import Named
from maskrcnn.data.workers import LostWorkerError, StalledError
from maskrcnn.engine import faults
from maskrcnn.engine.checkpoint import Part, Parts
from maskrcnn.engine.distributed import Ranks, lost_rank
from maskrcnn.engine.optim import clip_gradients, clip_unread
from maskrcnn.engine.strategy import Strategy
from maskrcnn.engine.unread import (
    MOST_UNREAD,
    Figures,
    Hearing,
    UnreadFigures,
    start_momenta,
    update_unless,
    what_is_bad,
)
from maskrcnn.errors import UserError, plural
from maskrcnn.modeling.precision import Precision, autocast
from maskrcnn.structures import Batch, ImageInfo
from maskrcnn.structures.seeds import seed_step

#: A batch that memory has room for is passed at most in so many pieces.
MOST_PIECES = 8


class Forward(Protocol):
    """The losses of a batch, or of a piece of one, by name.

    number: of the piece.  alone: by the model itself, in place of what the strategy calls.
    """

    def __call__(self, batch: Batch, number: int = 0, alone: bool = False) -> dict[str, Tensor]: ...


#: What is needed only where memory ran out: the passes of a batch that is cut by images; a stand-in for one.
CUTS: Named[Callable[..., Any]] = Named("cut", "maskrcnn.engine", images="pieces", stand_in="pieces")


class Average(Protocol):
    """An average of the weights, kept beside them; see :class:`maskrcnn.engine.ema.WeightAverage`."""

    def restart(self) -> None: ...
    def update(self, step: int, bad: Tensor | None = None) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def load(self, state: Mapping[str, Tensor], source: Path) -> None: ...
    def applied(self) -> AbstractContextManager[None]: ...


#: By the key of ``solver`` that asks for one: of a strategy, with the options there.
AVERAGES: Named[Callable[..., Average]] = Named("average", "maskrcnn.engine", ema="ema")


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
    left_out: where its figures are not finite and its update was left out, a phrase for each of them.
    infos: the images of this rank.
    step: how many steps there were before.
    """

    losses: dict[str, float]
    wishes: Wishes
    images: int
    grad_norm: float
    waiting: float
    left_out: Sequence[str] = ()
    infos: Sequence[ImageInfo] = ()
    step: int = 0


@dataclass(eq=False)
class NotMadeError(Exception):
    """A step was given up before its update: weights, optimizer, rates and statistics are as before it.

    infos: the images that this rank had got.
    """

    infos: Sequence[ImageInfo]


@dataclass(eq=False)
class NoMemoryError(NotMadeError):
    """Memory ran out, and smaller pieces of the batch did not help, or could not be made.

    step: how many steps are whole.
    together: whether all ranks raise it at this step.
    loading: whether it was while a batch was loaded.
    """

    step: int
    together: bool = True
    loading: bool = False


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
    batches: list[Batch]


@dataclass
class _Pass:
    """What the passes of a step have done so far.

    sums: name -> mean loss.  waiting: seconds for batches.  begun: whether the strategy's module was called;
    backward: whether the last backward pass has begun.  finish: reads the losses of all ranks.
    """

    step: int
    infos: list[ImageInfo]
    wishes: Callable[[], Wishes]
    sums: dict[str, Tensor] = field(default_factory=dict)
    waiting: float = 0.0
    begun: bool = False
    backward: bool = False
    finish: Callable[[], tuple[dict[str, float], Wishes]] = field(default=lambda: ({}, Wishes()))


def _remembered(source: Iterator[Batch], batches: list[Batch]) -> Iterator[Batch]:
    """``batches``, and then those of ``source``, which are added to them."""
    yield from list(batches)
    for batch in source:
        batches.append(batch)
        yield batch


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
    max_skipped: so many steps in a row whose figures are not finite may be left out.
    deferred: figures stay on the device until :meth:`read`, so that :meth:`queue` never waits for it.  None:
        on a GPU; a CPU has made each step before the next anyway.
    average: of the weights, which each step moves.
    tell: takes a sentence on what is done about memory that ran out.
    """

    strategy: Strategy
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    _: KW_ONLY
    seed: int
    precision: Precision
    accumulate: int = 1
    clip_grad_norm: float | None = None
    max_skipped: int = 0
    deferred: bool | None = None
    average: Average | None = None
    tell: Callable[[str], None] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        self.ranks = self.strategy.ranks
        self.parameters = [p for p in self.strategy.model.parameters() if p.requires_grad]
        self._scaler = torch.amp.GradScaler(self.ranks.device.type, enabled=self.precision == "float16")
        deferred = self.ranks.device.type == "cuda" if self.deferred is None else self.deferred
        self._unread = UnreadFigures(self.ranks, self.max_skipped) if deferred else None
        self._hearing = Hearing(self.ranks)
        self._made: list[_Made] = []
        self._figures: list[Figures] = []
        #: In how many pieces each batch is passed.
        self.pieces = 1
        #: Steps that were left out, in all and in a row.
        self.skipped, self._row = 0, 0
        self._lost = False

    def parts(self) -> Parts:
        """The state that steps change."""
        strategy, optimizer, scaler = self.strategy, self.optimizer, self._scaler
        parts = {
            "model": Part(strategy.model_state, strategy.load_model),
            "optimizer": Part(
                lambda: strategy.optimizer_state(optimizer),
                lambda state, source: strategy.load_optimizer(optimizer, state, source),
            ),
            "scaler": Part(scaler.state_dict, lambda state, _: scaler.load_state_dict(state), default=dict),
            "recovery": Part(self._recovery, lambda state, _: self._recover(state), default=dict),
        }
        if (average := self.average) is not None:

            def begun() -> dict[str, Tensor]:  # after the model was loaded
                average.restart()
                return average.state()

            absent = (
                "holds no average of the weights (solver.ema), so it begins with the weights of that step"
            )
            parts["ema"] = Part(average.state, average.load, default=begun, absent=absent)
        return parts

    def _recovery(self) -> dict[str, Any]:
        state = {"pieces": self.pieces, "skipped": self.skipped, "in_a_row": self._row}
        return state if state != {"pieces": 1, "skipped": 0, "in_a_row": 0} else {}

    def _recover(self, state: Mapping[str, Any]) -> None:
        self.pieces, self.skipped, self._row = (int(state[k]) for k in ("pieces", "skipped", "in_a_row"))
        if self._unread is not None:
            self._unread.begin(self._row)

    @property
    def deferred_steps(self) -> bool:
        """Whether figures stay on the device until they are read."""
        return self._unread is not None

    @property
    def full(self) -> bool:
        """Whether what was queued has to be read before more is."""
        return self._lost or len(self._made) >= (1 if self._unread is None else MOST_UNREAD)

    def take(self, step: int, source: Iterator[Batch], wishes: Callable[[], Wishes]) -> StepResult:
        """Make a step and read it: :meth:`queue`, then :meth:`read`."""
        self.queue(step, source, wishes)
        return self.read()[-1]

    def queue(self, step: int, source: Iterator[Batch], wishes: Callable[[], Wishes]) -> Wishes:
        """Make the step after ``step`` finished ones, with the next ``accumulate`` batches of ``source``.

        Where memory runs out on any rank, all ranks pass the batch anew in twice as many pieces, and those of
        later steps too.

        Where steps are deferred it is not known yet whether its figures are finite.  If they are not, it has
        changed nothing; beyond ``max_skipped`` such steps in a row no step after it does either, and
        :meth:`read` says so.

        Args:
            wishes: this rank's, asked for before the last backward pass.

        Returns:
            the wishes of any rank; of several ranks with deferred steps those of the step before.

        Raises:
            NotMadeError: one of its kinds; no trace of the step is left.
        """
        batches: list[Batch] = []
        while True:
            try:
                return self._queue(step, _remembered(source, batches), wishes, batches)
            except NoMemoryError as error:
                if error.loading or not (error.together and self._cut_smaller(step, batches)):
                    error.infos = [info for batch in batches for info in batch.infos]
                    raise
            self._forget_pass()

    def _queue(
        self,
        step: int,
        source: Iterator[Batch],
        wishes: Callable[[], Wishes],
        batches: list[Batch],
        *,
        heard: Wishes | None = None,
    ) -> Wishes:
        """:meth:`queue`, once; ``heard``: the wishes that were heard when it was queued before."""
        infos: list[ImageInfo] = []
        rates = [group["lr"] for group in self.optimizer.param_groups]
        pass_ = _Pass(step, infos, wishes)
        with self._undone_if_not_made(infos, wishes, rates, step) as statistics:
            self.schedule(step)
            self.optimizer.zero_grad(set_to_none=True)
            lost = self._pass_all(pass_, source)
            if lost:
                for batch in islice(source, self.accumulate - len(batches)):
                    infos += batch.infos
                self._stand_in(pass_, batches)
            if self.ranks.size > 1 and self.strategy.completes:
                flag = self.ranks.sum(torch.tensor(float(lost), device=self.ranks.device))
                if self._unread is not None:
                    self._unread.add_lost(flag)
                elif flag.item() > 0:
                    raise NoMemoryError(infos, step)
            if self._unread is None:
                means, wished = pass_.finish()
                bad, norm = self._judge_and_clip(means)
                self._figures = [Figures(means, norm)]
                if bad and self._row >= self.max_skipped:
                    raise NotFiniteError(infos, bad, step)
                if bad:
                    for buffer, copy in statistics:
                        buffer.copy_(copy)
            else:
                if heard is None:
                    stop, save, self._lost = self._hearing([*wishes(), lost])
                    wished = Wishes(stop, save)
                else:
                    wished = heard
                self._scaler.unscale_(self.optimizer)
                norm_unread = clip_unread(self.parameters, self.clip_grad_norm)
                self._unread.add_norm(norm_unread, must_be_finite=not self._scaler.is_enabled())
            if self._unread is not None or self._scaler.is_enabled():
                start_momenta(self.optimizer)
        if self._unread is not None:
            update_unless(self._unread.bad, self.optimizer, self._scaler, statistics)
        elif not bad:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        if self.average is not None and self._unread is not None:
            self.average.update(step, self._unread.bad)
        elif self.average is not None and not bad:
            self.average.update(step)
        self._made.append(_Made(step, infos, wished, pass_.waiting, rates, batches))
        for older in self._made[:-2] if self.ranks.size > 1 else self._made:
            older.batches.clear()  # a rank that ran out of memory is heard of a step later
        return wished

    def _pass_all(self, pass_: _Pass, source: Iterator[Batch]) -> bool:
        """All passes of a step, forward and backward, the last of which all ranks hear.

        Returns:
            whether memory ran out where the other ranks have to be told.
        """
        try:
            for micro in range(self.accumulate):
                began = time.perf_counter()
                try:
                    batch = next(source)
                except MemoryError as error:
                    alone = self.ranks.size == 1
                    raise NoMemoryError(pass_.infos, pass_.step, alone, loading=True) from error
                pass_.waiting += time.perf_counter() - began
                pass_.infos += batch.infos
                for last, compute in self._passes(pass_, micro, batch):
                    final = last and micro == self.accumulate - 1
                    with nullcontext() if final else self.strategy.no_sync():
                        losses = compute()
                        for name, value in losses.items():
                            so_far = pass_.sums.get(name, 0.0)
                            pass_.sums[name] = so_far + value.detach().float() / self.accumulate
                        # Before the last backward pass: the sum over the ranks goes on while that runs.
                        if final:
                            self._send(pass_, pass_.sums)
                        total = torch.stack([value.float() for value in losses.values()]).sum()
                        pass_.backward = final
                        self._scaler.scale(total / self.accumulate).backward()
        except (RuntimeError, MemoryError) as error:
            told = self.ranks.size > 1 and self.strategy.completes
            if not told or not faults.is_out_of_memory(error):
                raise
            return True
        return False

    def _passes(
        self, pass_: _Pass, micro: int, batch: Batch
    ) -> Iterator[tuple[bool, Callable[[], dict[str, Tensor]]]]:
        """Whether it is the batch's last, and what computes the losses, of each pass of a batch."""

        def forward(batch: Batch, number: int = 0, alone: bool = False) -> dict[str, Tensor]:
            batch = batch.to(self.ranks.device)
            seed_step(self.seed, pass_.step, self.ranks.rank, micro + number * self.accumulate)
            given = {} if batch.proposals is None else {"proposals": batch.proposals}
            with autocast(self.ranks.device, self.precision):
                args = (batch.images, batch.targets, batch.seeds)
                called = self.strategy.model if alone else self.strategy.module
                pass_.begun = pass_.begun or not alone
                losses: dict[str, Tensor] = called(*args, **given)
            return losses

        if self.pieces == 1:
            return iter([(True, partial(forward, batch))])
        model = self.strategy.model
        passes = CUTS.get("images")(batch, self.pieces, model, forward, self._statistics)
        return iter(passes)

    def _send(self, pass_: _Pass, sums: dict[str, Tensor]) -> None:
        if self._unread is None:
            pass_.finish = read_back(self.ranks, sums, pass_.wishes())
        else:
            self._unread.add_losses(sums)

    def _stand_in(self, pass_: _Pass, batches: list[Batch]) -> None:
        """Do for the other ranks what they wait for, after memory ran out here; all then begin anew."""
        self._forget_pass(keep_gradients=pass_.backward)
        if pass_.backward:
            self.strategy.complete_backward()
            return
        small = CUTS.get("stand_in")(batches[0]).to(self.ranks.device)
        given = {} if small.proposals is None else {"proposals": small.proposals}
        begun = self.strategy.begun_before() if pass_.begun else nullcontext()
        with begun, autocast(self.ranks.device, self.precision):
            losses = self.strategy.module(small.images, small.targets, small.seeds, **given)
        self._send(pass_, {name: value.detach().float() for name, value in losses.items()})
        (torch.stack([value.float() for value in losses.values()]).sum() * 0).backward()

    def _forget_pass(self, *, keep_gradients: bool = False) -> None:
        """Give back what a pass that failed holds."""
        if not keep_gradients:
            self.optimizer.zero_grad(set_to_none=True)
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()

    def _cut_smaller(self, step: int, batches: Sequence[Batch]) -> bool:
        """Pass batches in twice as many pieces from now on; whether that can be."""
        most = min(MOST_PIECES, max(map(len, batches), default=1))
        if self.pieces >= most:
            return False
        self.pieces *= 2
        size = -(-max(map(len, batches)) // self.pieces)
        self.tell(
            f"step {step + 1}: out of memory; it is made anew, and later ones are made, with each batch in"
            f" {min(self.pieces, most)} pieces of at most {plural(size, 'image')} (the same gradients to"
            " rounding; slower: each piece is passed twice forward)"
        )
        return True

    def read(self) -> list[StepResult]:
        """The steps queued since the last reading, once they are done; waits for the device.

        Raises:
            NotFiniteError: beyond ``max_skipped`` in a row, the first of them whose figures are not finite;
                the state is as before it.
            NoMemoryError: a rank ran out of memory, and smaller pieces did not help.
        """
        made, self._made, self._lost = self._made, [], False
        figures = self._figures if self._unread is None else self._unread.read()
        self._figures = []
        results: list[StepResult] = []
        for place, (one, (means, norm, lost)) in enumerate(zip(made, figures, strict=True)):
            if lost:
                return results + self._again(made[place:])
            bad = what_is_bad(means, None if self._scaler.is_enabled() else norm)
            self._row = self._row + 1 if bad else 0
            if self._row > self.max_skipped:
                self._row = 0
                self._set_rates(one.rates)
                raise NotFiniteError(one.infos, bad, one.step)
            self.skipped += bool(bad)
            images = len(one.infos) * self.ranks.size
            results.append(StepResult(means, one.wishes, images, norm, one.waiting, bad, one.infos, one.step))
        return results

    def _again(self, made: Sequence[_Made]) -> list[StepResult]:
        """Make steps anew, none of which changed anything since a rank had run out of memory in the first."""
        results: list[StepResult] = []
        if self._unread is not None:
            self._unread.begin(self._row)
        for one in made:
            if one is made[0] and not self._cut_smaller(one.step, one.batches):
                raise NoMemoryError(one.infos, one.step)
            self._forget_pass()
            batches = list(one.batches)
            self._queue(one.step, iter(batches), Wishes, batches, heard=one.wishes)
            results += self.read()
        return results

    def _judge_and_clip(self, means: dict[str, float]) -> tuple[list[str], float]:
        """What is not finite, a phrase each; and the gradient's norm before clipping."""
        # The same on all ranks, since the losses were summed over them, as the gradients were.
        if bad := what_is_bad(means, None):
            return bad, math.nan
        self._scaler.unscale_(self.optimizer)
        most = math.inf if self.clip_grad_norm is None else self.clip_grad_norm
        norm = clip_gradients(self.parameters, most)
        return [] if self._scaler.is_enabled() else what_is_bad({}, norm), norm  # it skips the step itself

    @contextmanager
    def _undone_if_not_made(
        self, infos: list[ImageInfo], wishes: Callable[[], Wishes], rates: list[float], step: int
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
            reason = error if isinstance(error, NotMadeError) else self._reason(error, infos, wishes, step)
            if reason is None:
                raise
            for buffer, copy in statistics:
                buffer.copy_(copy)
            self._set_rates(rates)
            if self._unread is not None:
                self._unread.keep(len(self._made))
            raise reason from (None if reason is error else error)

    def schedule(self, step: int) -> None:
        """Give the optimizer the rates of the step after ``step`` finished ones."""
        lr = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("rate", 1.0)

    def _set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _reason(
        self, error: Exception, infos: list[ImageInfo], wishes: Callable[[], Wishes], step: int
    ) -> NotMadeError | None:
        """Why the step ends; None where ``error`` is a fault of the code."""
        if faults.is_out_of_memory(error):
            return NoMemoryError(infos, step, self.ranks.size == 1)
        if isinstance(error, LostWorkerError):
            return AbandonedError(infos, error)
        if isinstance(error, StalledError):
            return AbandonedError(infos, None)
        if self.ranks.size == 1 or not faults.is_lost_rank(error):
            return None
        # While all are told to stop, a rank that did so first is missing in the others' sums.
        return AbandonedError(infos, None if wishes().stop else faults.LostRankError(lost_rank()))

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers that a forward pass changes, with copies, since a step may be given up after one."""
        return [
            (buffer, buffer.clone())
            for module in self.strategy.model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.training
            for buffer in module.buffers(recurse=False)
        ]
