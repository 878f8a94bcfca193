"""One optimizer step: forward and backward passes, clipping and the update; it knows no log or file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from maskrcnn.config.registry import Named
from maskrcnn.data.workers import LostWorkerError, StalledError
from maskrcnn.engine import faults
from maskrcnn.engine.checkpoint import Part, Parts
from maskrcnn.engine.distributed import lost_rank
from maskrcnn.engine.judging import JUDGES, Judge
from maskrcnn.engine.outcomes import (
    AbandonedError,
    NoMemoryError,
    NotFiniteError,
    NotMadeError,
    StepResult,
    Wishes,
)
from maskrcnn.engine.passes import Passed, Passes
from maskrcnn.engine.strategy import Strategy
from maskrcnn.modeling.precision import Precision
from maskrcnn.structures import Batch


class Average(Protocol):
    """An average of the weights, kept beside them; see :class:`maskrcnn.engine.ema.WeightAverage`."""

    def restart(self) -> None: ...
    def update(self, step: int, bad: Tensor | None = None) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def load(self, state: Mapping[str, Tensor], source: Path) -> None: ...
    def applied(self) -> AbstractContextManager[None]: ...


#: By the key of ``solver`` that asks for one: of a strategy, with the options there.
AVERAGES: Named[Callable[..., Average]] = Named("average", "maskrcnn.engine", ema="ema")


class _Made(NamedTuple):
    """A step that was queued, and the learning rates before it."""

    passed: Passed
    wishes: Wishes
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
        self.passes = Passes(
            *(self.strategy, self.optimizer, self._scaler),
            seed=self.seed,
            precision=self.precision,
            accumulate=self.accumulate,
        )
        if self.deferred is None:
            self.deferred = self.ranks.device.type == "cuda"
        self.judge = (JUDGES.get("later") if self.deferred else Judge)(
            *(self.ranks, self.parameters, self.optimizer, self._scaler),
            clip_grad_norm=self.clip_grad_norm,
            max_skipped=self.max_skipped,
        )
        self._made: list[_Made] = []

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
            "shares": Part(self._shared, lambda state, _: self._share(state), default=lambda: {"of": "rank"}),
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

    def _shared(self) -> dict[str, Any]:
        """Whether ranks share each batch; in runs of before, which end as they began, each had its own."""
        return {"of": "batch" if self.passes.shared else "rank"}

    def _share(self, state: Mapping[str, Any]) -> None:
        self.passes.shared = state["of"] == "batch"

    def _recovery(self) -> dict[str, Any]:
        judge = self.judge
        state = {"pieces": self.passes.pieces, "skipped": judge.skipped, "in_a_row": judge.row}
        return state if state != {"pieces": 1, "skipped": 0, "in_a_row": 0} else {}

    def _recover(self, state: Mapping[str, Any]) -> None:
        judge = self.judge
        self.passes.pieces, judge.skipped, judge.row = (
            int(state[key]) for key in ("pieces", "skipped", "in_a_row")
        )
        judge.begin()

    @property
    def full(self) -> bool:
        """Whether what was queued has to be read before more is."""
        return self.judge.lost or len(self._made) >= self.judge.most_unread

    def take(self, step: int, source: Iterator[Batch], wishes: Callable[[], Wishes]) -> StepResult:
        """Make a step and read it: :meth:`queue`, then :meth:`read`."""
        self.queue(step, source, wishes)
        return self.read()[-1]

    def queue(
        self,
        step: int,
        source: Iterator[Batch],
        wishes: Callable[[], Wishes],
        *,
        heard: Wishes | None = None,
    ) -> Wishes:
        """Make the step after ``step`` finished ones, with the next ``accumulate`` batches of ``source``.

        Where memory runs out on any rank, all ranks pass the batch anew in twice as many pieces, and those of
        later steps too.

        Where steps are deferred it is not known yet whether its figures are finite.  If they are not, it has
        changed nothing; beyond ``max_skipped`` such steps in a row no step after it does either, and
        :meth:`read` says so.

        Args:
            wishes: this rank's, asked for before the last backward pass.
            heard: the wishes that were heard when it was queued before; None: it was not.

        Returns:
            the wishes of any rank; of several ranks with deferred steps those of the step before.

        Raises:
            NotMadeError: one of its kinds; no trace of the step is left.
        """
        average, batches = self.average, list[Batch]()
        rates = [group["lr"] for group in self.optimizer.param_groups]
        while True:
            passed = Passed(step, wishes, batches)
            try:
                with self._undone_if_not_made(passed, rates) as statistics:
                    self.schedule(step)
                    self.optimizer.zero_grad(set_to_none=True)
                    ran_out, lost = self.passes.make(passed, source, self.judge.send)
                    wished = self.judge.judge(passed, ran_out, lost, heard)
                break
            except NoMemoryError as error:
                if error.loading or not (error.together and self.passes.cut_smaller(passed, self.tell)):
                    error.infos = [info for batch in batches for info in batch.infos]
                    raise
            self.passes.forget()

        def move_average(bad: Tensor | None = None) -> None:
            if average is not None:
                average.update(step, bad)

        self.judge.update(statistics, move_average)
        self._made.append(_Made(passed, wished, rates))
        for older in self._made[:-2] if self.ranks.size > 1 else self._made:
            older.passed.batches.clear()  # a rank that ran out of memory is heard of a step later
        return wished

    def read(self) -> list[StepResult]:
        """The steps queued since the last reading, once they are done; waits for the device.

        Raises:
            NotFiniteError: beyond ``max_skipped`` in a row, the first of them whose figures are not finite;
                the state is as before it.
            NoMemoryError: a rank ran out of memory, and smaller pieces did not help.
        """
        made, self._made = self._made, []
        results: list[StepResult] = []
        for place, (one, figures) in enumerate(zip(made, self.judge.read(), strict=True)):
            if figures.lost:
                return results + self._again(made[place:])
            passed = one.passed
            bad, too_many = self.judge.count(figures)
            if too_many:
                self._set_rates(one.rates)
                raise NotFiniteError(passed.infos, bad, passed.step)
            images = len(passed.infos) * self.ranks.size
            done = (figures.losses, one.wishes, images, figures.norm, passed.waiting, bad)
            results.append(StepResult(*done, passed.infos, passed.step))
        return results

    def _again(self, made: Sequence[_Made]) -> list[StepResult]:
        """Make steps anew, none of which changed anything since a rank had run out of memory in the first."""
        results: list[StepResult] = []
        self.judge.begin()
        for one in made:
            passed = one.passed
            if one is made[0] and not self.passes.cut_smaller(passed, self.tell):
                raise NoMemoryError(passed.infos, passed.step)
            self.passes.forget()
            self.queue(passed.step, iter(list(passed.batches)), Wishes, heard=one.wishes)
            results += self.read()
        return results

    @contextmanager
    def _undone_if_not_made(
        self, passed: Passed, rates: list[float]
    ) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Turn what ends a step early into a kind of :class:`NotMadeError`, and put back what it changed.

        Args:
            rates: those before the step.

        Yields:
            buffers that the step may change, with copies.
        """
        statistics = self.passes.statistics()
        try:
            yield statistics
        except (NotMadeError, RuntimeError, MemoryError, StalledError, LostWorkerError) as error:
            reason = error if isinstance(error, NotMadeError) else self._reason(error, passed)
            if reason is None:
                raise
            for buffer, copy in statistics:
                buffer.copy_(copy)
            self._set_rates(rates)
            self.judge.keep(len(self._made))
            raise reason from (None if reason is error else error)

    def schedule(self, step: int) -> None:
        """Give the optimizer the rates of the step after ``step`` finished ones."""
        lr = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("rate", 1.0)

    def _set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _reason(self, error: Exception, passed: Passed) -> NotMadeError | None:
        """Why the step ends; None where ``error`` is a fault of the code."""
        infos = passed.infos
        if faults.is_out_of_memory(error):
            return NoMemoryError(infos, passed.step, self.ranks.size == 1)
        if isinstance(error, LostWorkerError):
            return AbandonedError(infos, error)
        if isinstance(error, StalledError):
            return AbandonedError(infos, None)
        if self.ranks.size == 1 or not faults.is_lost_rank(error):
            return None
        # While all are told to stop, a rank that did so first is missing in the others' sums.
        return AbandonedError(infos, None if passed.wishes().stop else faults.LostRankError(lost_rank()))
