"""The only training loop: when to make a step, log, save, evaluate and stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NoReturn, Protocol

from maskrcnn.config.registry import Named
from maskrcnn.engine import faults
from maskrcnn.engine.checkpoint import Checkpoint
from maskrcnn.engine.console import Console
from maskrcnn.engine.events import Events, Tally, format_seconds
from maskrcnn.engine.interrupt import Interrupted, StopRequest
from maskrcnn.engine.memory import memory_in_use
from maskrcnn.engine.optim import rates_of
from maskrcnn.engine.outcomes import (
    AbandonedError,
    NoMemoryError,
    NotFiniteError,
    NotMadeError,
    StepResult,
    Wishes,
)
from maskrcnn.engine.saving import Saving
from maskrcnn.engine.step import Step
from maskrcnn.engine.watchdog import Watchdog
from maskrcnn.errors import UserError, plural
from maskrcnn.structures import Batch

#: (finished step, whether to break off) -> metric name -> value, on rank 0, and empty on the others; None on
#: all of them where it was broken off.
Evaluate = Callable[[int, Callable[[], bool]], Mapping[str, float] | None]
#: Steps that were left out are told one by one up to so many, and then each so manieth.
_TOLD = 20


@dataclass(frozen=True)
class LoopPlan:
    """When the loop does what; all of it happens after the last step too.

    total_steps: optimizer steps in all.
    log_every: steps between log lines.
    checkpoint_every: steps between checkpoints, None: only at evaluations and at the end.
    eval_every: steps between evaluations, None: only at the end.
    patience: evaluations without a better one after which it ends, None: it does not.
    """

    total_steps: int
    log_every: int = 20
    checkpoint_every: int | None = None
    eval_every: int | None = None
    patience: int | None = None

    def due(self, step: int, every: int | None) -> bool:
        """Whether what is done every so many steps is done after ``step``."""
        return step == self.total_steps or (every is not None and step % every == 0)

    def out_of_patience(self, state: Checkpoint) -> bool:
        """Whether the evaluation that is just behind ``state`` was one too many; a function of it alone."""
        every = self.eval_every
        if self.patience is None or every is None or state.evaluated != state.step:
            return False
        return state.step // every - int(state.best.get("step", 0)) // every >= self.patience


class Budget(Protocol):
    """Decides after the first steps how many there are; see :class:`maskrcnn.engine.budget.TimeBudget`."""

    @property
    def steps(self) -> int | None: ...
    def begin(self, step: int) -> None: ...
    def due(self, step: int) -> bool: ...
    def take(self, step: int) -> int | None: ...
    def leave_out(self, seconds: float) -> None: ...
    def place(self, step: int) -> int: ...
    def told(self) -> str: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: Mapping[str, Any]) -> None: ...


#: By the key of ``train`` that asks for one: of its value, the planned steps and the ranks.
BUDGETS: Named[Callable[..., Budget]] = Named("budget", "maskrcnn.engine", hours="budget")


@dataclass
class Trainer:
    """Trains from ``state.step`` to the plan's last step.

    Every quantity of step t (batch, learning rate, random numbers) is a function of (seed, t, rank), so a
    checkpoint between two steps is enough to go on with the identical result.

    step: makes the steps; all ranks run the same trainer.
    saving: writes checkpoints.
    plan: when what is done.
    console: where lines go.
    state: what a checkpoint says besides the states of parts (config, classes, versions; step).
    evaluate: computes the metrics; None: no evaluations.
    events: progress lines, metrics and TensorBoard; None on ranks other than 0.
    resume_hint: how to go on after an interruption, for the message.
    budget: decides ``plan.total_steps`` on the way; None: they are as planned.
    keep_evidence: keeps what a step that is not finite was made of: (the state before it, what is not finite)
        -> where, a phrase; called on all ranks at once.  None: nowhere.
    watchdog: tells of steps that take far longer than usual; None: nobody does.
    """

    step: Step
    saving: Saving
    plan: LoopPlan
    _: KW_ONLY
    console: Console
    state: Checkpoint
    evaluate: Evaluate | None = None
    events: Events | None = None
    resume_hint: str = "train again with --resume"
    budget: Budget | None = None
    keep_evidence: Callable[[Checkpoint, list[str]], str] | None = None
    watchdog: Watchdog | None = None

    def __post_init__(self) -> None:
        self._ranks = self.step.ranks
        self._tally = Tally()
        self._left_out = 0
        self._losses: faults.LossWatch | None = faults.LossWatch() if self._ranks.is_main else None
        #: Why the run ended with another number of steps than planned, once it has.
        self.ended = ""
        if self.budget is not None and self.budget.steps is not None:
            self.plan = replace(self.plan, total_steps=self.budget.steps)
        self.step.tell = self.console.warn

    def fit(self, batches: Iterable[Batch]) -> None:
        """Train to the end.

        Args:
            batches: the micro-batches from step ``state.step`` on, as many for each step as it takes.  Where
                it has an attribute ``stopping``, that is set to tell it whether the run was asked to stop;
                ``tell`` takes sentences.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite; before the optimizer step, though it may be
                told some steps later (``Step.deferred``).
            Interrupted: Ctrl-C, SIGTERM or SIGHUP; after the step and its checkpoint.
            LostWorkerError, LostRankError: a loading process, or another rank, is gone; after the checkpoint
                of the last whole step.
            WriteError: the last checkpoint could not be written.
            UserError: out of memory, or what the guard of ``saving`` raises.
        """
        saving = self.saving
        self.step.strategy.module.train()
        saving.begin(self.state.step)
        if self.state.step > 0:  # those of the last step, should none follow
            self.step.schedule(self.state.step - 1)
        watch = self.watchdog.watching() if self.watchdog else nullcontext()
        with StopRequest() as stop, saving, watch, _opened(batches, stop, self.console.warn) as source:

            def wishes() -> Wishes:
                return Wishes(stop.signal_number != 0 or saving.problem is not None, saving.wished)

            self._evaluate_if_due(stop)  # one that an interruption cut off
            self._tally = Tally()
            if self.budget is not None:
                self.budget.begin(self.state.step)
            while self.state.step < self.plan.total_steps and not self.plan.out_of_patience(self.state):
                try:
                    if self.watchdog is not None:
                        self.watchdog.begin(self.state.step + 1)
                    wished = self.step.queue(self.state.step, source, wishes)
                    self.state = replace(self.state, step=self.state.step + 1)
                    step = self.state.step
                    save = self._decide()
                    plan = self.plan
                    self._ranks.say(f"made step {step}")
                    log = wished.stop or plan.due(step, plan.log_every)
                    save = save or wished.stop or wished.save or plan.due(step, plan.checkpoint_every)
                    save = save or self._evaluation_due()
                    if log or save or self.step.full:
                        self._read()
                except NotMadeError as error:
                    self._leave(error, stop)
                if self.watchdog is not None:
                    self.watchdog.done()
                if log:
                    saving.ask_guard()
                    self._log()
                if save:
                    saving.save(self.state)
                if wished.stop and step < plan.total_steps:
                    self._interrupt(stop)
                self._evaluate_if_due(stop)
        self._end()
        self._say_end()

    def _decide(self) -> bool:
        """Let the budget measure; whether it has decided now how many steps there are (to be saved)."""
        if self.budget is None or not self.budget.due(self.state.step):
            return False
        self._read()
        total = self.budget.take(self.state.step)
        if total is None:
            return False
        self.plan = replace(self.plan, total_steps=total)
        self.console.line(self.budget.told())
        return True

    def _say_end(self) -> None:
        """Why there were fewer steps than planned, or more, in a line and on file."""
        state, plan = self.state, self.plan
        if state.step < plan.total_steps:
            best = [
                f"{name} {value:.4g} of step {state.best['step']:.0f}"
                for name, value in state.best.items()
                if name != "step"
            ]
            than = f"was better than {best[0]}" if best else "gave the metric that decides"
            tried = f"{plural(plan.patience or 0, 'evaluation')} in a row"
            self.ended = (
                f"stopped early after step {state.step} of {plan.total_steps}: none of {tried} {than}"
                f" (train.patience); to go on: raise it, and {self.resume_hint}"
            )
            self.console.line(self.ended)
        elif self.budget is not None:
            self.ended = self.budget.told()
        if self.ended and self.events is not None:
            self.events.end(state.step, self.ended)

    def _read(self, *, alone: bool = False) -> None:
        """Count the steps that are not read yet; what is saved after this is sound.

        alone: other ranks may not be here.
        """
        for done in self.step.read():
            if done.left_out:
                self._tell_left_out(done, alone)
            else:
                self._tally.add(done)

    def _tell_left_out(self, done: StepResult, alone: bool) -> None:
        """A step whose figures are not finite and whose update was left out; of many of them not each."""
        self._left_out += 1
        kept = ""
        if self._left_out == 1 and not alone and self.keep_evidence is not None:
            kept = "; " + self.keep_evidence(replace(self.state, step=done.step), [*done.left_out])
        if self._left_out > _TOLD and self._left_out % _TOLD:
            return
        infos = [done.infos] if alone else self._ranks.gather(done.infos)
        images = [info for part in infos for info in part]
        self.console.warn(
            f"step {done.step + 1}: {'; '.join(done.left_out)}, on {faults.name_images(images)}; its update"
            f" is left out (train.on_nonfinite: skip; {self.step.judge.skipped} of this run so far){kept}"
        )

    def _log(self) -> None:
        tally, self._tally = self._tally, Tally()
        if not tally.steps or self.saving.problem is not None:
            return
        step = self.state.step
        grown = None if self._losses is None else self._losses.growth(sum(tally.means().values()))
        if grown is not None:
            self._losses = None  # told once
            self.console.warn(
                f"step {step}: {grown}: the learning rate is too high in all likelihood; lower"
                " solver.optimizer.lr, raise solver.schedule.warmup_steps, or set solver.clip_grad_norm"
            )
        if self.events is not None:
            lr, memory = self.step.rate(step - 1), memory_in_use(self._ranks.device)
            rates = {name: lr * factor for name, factor in rates_of(self.step.optimizer).items()}
            self.events.progress(
                tally, step=step, total=self.plan.total_steps, lr=lr, memory=memory, rates=rates
            )

    def _evaluation_due(self) -> bool:
        step = self.state.step
        if self.evaluate is None or step == 0 or self.state.evaluated == step:
            return False
        return self.plan.due(step, self.plan.eval_every)

    def _evaluate_if_due(self, stop: StopRequest) -> None:
        if not self._evaluation_due():
            return
        assert self.evaluate is not None
        began, step = time.perf_counter(), self.state.step
        self._ranks.say(f"evaluates after step {step}")
        metrics = self.evaluate(step, lambda: stop.signal_number != 0)
        self.step.strategy.module.train()
        alone = self._ranks.size == 1
        if metrics is None or (alone and stop.signal_number != 0 and not metrics):
            self._interrupt(stop)
        metrics = self._ranks.share(dict(metrics))
        seconds = time.perf_counter() - began
        if self.events is not None:
            self.events.evaluation(step, metrics, seconds)
        self.console.line(f"evaluation at step {step} took {format_seconds(seconds)}")
        self.state = self.saving.save_evaluated(self.state, metrics)
        self._tally.began += time.perf_counter() - began
        if self.budget is not None:
            self.budget.leave_out(time.perf_counter() - began)

    def _end(self) -> None:
        """The end of the run is an error where its last checkpoint is not on the disk."""
        self.saving.settle()
        if self._ranks.share(self.saving.unsaved is not None):
            self.saving.save(self.state)
        problem = self._ranks.share(self.saving.last_word(self.state.step))
        if problem is not None:
            raise problem

    def _interrupt(self, stop: StopRequest) -> NoReturn:
        self._end()
        raise self._interrupted(stop)

    def _leave(self, error: NotMadeError, stop: StopRequest) -> NoReturn:
        """End with what a step that was not made is told as; see :meth:`fit`."""
        saving, alone = self.saving, False  # alone: other ranks may not be here
        saving.settle()
        if not isinstance(error, NotFiniteError):
            alone = not (isinstance(error, NoMemoryError) and error.together)
            try:
                self._read(alone=alone)
            except NotFiniteError as earlier:
                error = earlier
        step = self.state.step
        if isinstance(error, NotFiniteError):
            step = error.step
            self.state = replace(self.state, step=step)
            images, safe = error.infos, saving.safe
            if not alone:
                images = [info for part in self._ranks.gather(images) for info in part]
            names = faults.name_images(images)
            kept = ""
            if not alone:
                names, safe = self._ranks.share((names, safe))
                if self.keep_evidence is not None:
                    kept = f"; {self.keep_evidence(self.state, error.what)}"
            before = f", as were the {self.step.max_skipped} before" if self.step.max_skipped else ""
            raise faults.NonFiniteError(
                f"step {step + 1}: {'; '.join(error.what)}, on {names}; stopped before the optimizer step"
                f"{before}, {safe}{kept}. Look at these images and their annotations; if they are sound,"
                f" the learning rate ({self.step.rate(step):.3g}) is too high or the warm-up too short: lower"
                " solver.optimizer.lr, raise solver.schedule.warmup_steps, or set solver.clip_grad_norm"
            )
        if isinstance(error, NoMemoryError):
            step = error.step
            self.state = replace(self.state, step=step)
            pieces = "" if self.step.passes.pieces == 1 else f", in {self.step.passes.pieces} pieces too"
            if error.together and (saving.saved != step or saving.unsaved is not None) and step:
                saving.save(self.state, wait=True)
            raise UserError(
                f"step {step + 1}: out of memory on {faults.name_images(error.infos)}{pieces};"
                f" {saving.safe}. Raise solver.accumulate (the same images a step in up to solver.batch_size"
                " parts; the result is close but not the same, since losses are averaged over parts), set"
                " solver.precision to bfloat16, or use smaller images (data.train_transforms)"
            ) from error.__cause__
        assert isinstance(error, AbandonedError)
        # The last whole step is saved without waiting for other ranks: they may be gone.
        self._log()
        main = self._ranks.is_main
        whole = self.step.strategy.whole_alone
        if main and whole and (saving.saved != step or saving.unsaved is not None):
            saving.save(self.state)
        problem = saving.last_word(step)
        if problem is not None:
            raise problem
        kept = saving.safe if main else "the checkpoint is rank 0's to write"
        if error.why is None:
            raise self._interrupted(stop, "checkpoint written" if main and whole else kept)
        stopped = f"{error.why}; stopped after step {step}, {kept}"
        raise type(error.why)(f"{stopped}; to go on: {self.resume_hint}")

    def _interrupted(self, stop: StopRequest, kept: str = "checkpoint written") -> Interrupted:
        number = stop.signal_number or signal.SIGINT  # 0: another rank was asked
        return Interrupted(
            f"stopped by {signal.Signals(number).name} after step {self.state.step} of"
            f" {self.plan.total_steps}, {kept}; to go on: {self.resume_hint}",
            number,
        )


@contextmanager
def _opened(
    batches: Iterable[Batch], stop: StopRequest, tell: Callable[[str], None]
) -> Iterator[Iterator[Batch]]:
    """The batches one by one; at the end the loading processes end, whatever their state."""
    if hasattr(batches, "stopping"):
        batches.stopping = lambda: stop.signal_number != 0
    if hasattr(batches, "tell"):
        batches.tell = tell
    source = iter(batches)
    try:
        yield source
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
