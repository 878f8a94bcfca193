"""The only training loop: optimizer steps, with logs, checkpoints and evaluations between them."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from maskrcnn.data.workers import LostWorkerError, StalledError
from maskrcnn.engine import faults
from maskrcnn.engine.best import improved
from maskrcnn.engine.checkpoint import Checkpoint, CheckpointFolder, WriteError
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.events import Events, TrainingProgress, format_seconds
from maskrcnn.engine.interrupt import Interrupted, StopRequest
from maskrcnn.engine.memory import memory_in_use
from maskrcnn.engine.optim import clip_gradients
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.readback import Readback
from maskrcnn.engine.seed import seed_step
from maskrcnn.engine.soundness import Soundness
from maskrcnn.errors import UserError
from maskrcnn.structures import Batch, ImageInfo

#: (finished step, whether to break off) -> metric name -> value, on rank 0, and empty on the others; None on
#: all of them where it was broken off.
Evaluate = Callable[[int, Callable[[], bool]], Mapping[str, float] | None]


class _AbandonedError(Exception):
    """A step was given up before its optimizer step: a batch does not come, or a rank is gone."""

    def __init__(self, why: UserError | None) -> None:
        super().__init__()
        self.why = why


@dataclass
class _Tally:
    """Sums since the last log."""

    losses: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    images: int = 0
    waiting: float = 0.0
    began: float = field(default_factory=time.perf_counter)


class Trainer:
    """Trains ``model`` from ``state.step`` to ``total_steps``.

    Every quantity of step t (batch, learning rate, random numbers) is a function of (seed, t, rank), so a
    checkpoint between two steps is enough to go on with the identical result.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        learning_rate: Callable[[int], float],
        *,
        ranks: Ranks,
        console: Console,
        seed: int,
        total_steps: int,
        precision: Precision,
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
        log_every: int = 20,
        checkpoint_every: int | None = None,
        eval_every: int | None = None,
        evaluate: Evaluate | None = None,
        best_metric: str | None = None,
        checkpoints: CheckpointFolder | None = None,
        template: Checkpoint | None = None,
        events: Events | None = None,
        resume_hint: str = "train again with --resume",
        guard: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            model: called as ``model(images, targets, seeds)``, and with ``proposals=`` where the batch
                has them; returns name -> scalar loss.
            optimizer: of the model's parameters.
            learning_rate: step (from 0) -> learning rate.
            ranks: the processes; all of them run the same trainer.
            console: where lines go.
            seed: with step and rank it decides every random number.
            total_steps: optimizer steps in all.
            precision: autocast and scaler.
            accumulate: forward passes an optimizer step; gradients are their mean.
            clip_grad_norm: largest L2 norm of all gradients together; None: no clipping.
            log_every: steps between log lines.
            checkpoint_every: steps between checkpoints, None: only at evaluations and at the end.
            eval_every: steps between evaluations, None: only at the end.
            evaluate: computes the metrics; None: no evaluations.
            best_metric: the metric whose highest value marks ``best.pt``; None: see ``engine.best``.
            checkpoints: where they go; None: nowhere.  Used on rank 0 alone.
            template: what a checkpoint says besides the state (config, classes, versions).
            events: progress lines, metrics and TensorBoard; None on ranks other than 0.
            resume_hint: how to go on after an interruption, for the message.
            guard: raises a UserError where the run must not write any more; asked at logs and checkpoints,
                on rank 0 alone.
        """
        self.model = model
        self.optimizer = optimizer
        self.state = template or Checkpoint(model={})
        self._wrapped = ranks.wrap(model)
        self._learning_rate = learning_rate
        self._ranks = ranks
        self._console = console
        self._seed = seed
        self._total = total_steps
        self._precision = precision
        self._accumulate = accumulate
        self._clip = clip_grad_norm
        self._log_every = log_every
        self._checkpoint_every = checkpoint_every
        self._eval_every = eval_every
        self._evaluate = evaluate
        self._best_metric = best_metric
        self._checkpoints = checkpoints if ranks.is_main else None
        self._events = events
        self._resume_hint = resume_hint
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._readback = Readback(ranks)
        self._tally = _Tally()
        self._grad_norm: float | None = None
        self._guard = guard if ranks.is_main else None
        self._soundness: Soundness | None = None
        self._loss_told = False
        self._ruined: set[int] = set()
        self._saved: int | None = None
        self._sound: int | None = None
        self._unsaved: WriteError | None = None
        self._problem: UserError | None = None

    @property
    def _safe(self) -> str:
        """Which checkpoint is kept, for messages."""
        if self._saved is None:
            return "no checkpoint was written yet"
        text = f"the checkpoint of step {self._saved} is kept"
        if self._saved in self._ruined:
            sound = "none from before" if self._sound is None else f"that of step {self._sound}"
            text += f", but its weights are ruined (see the warning; sound: {sound})"
        return text

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take over scaler, step and best metric; model and optimizer are restored by the caller."""
        if checkpoint.scaler:
            self._precision.scaler.load_state_dict(checkpoint.scaler)
        self.state = replace(
            self.state, step=checkpoint.step, evaluated=checkpoint.evaluated, best=checkpoint.best
        )
        self._saved = self._sound = checkpoint.step

    def fit(self, batches: Iterable[Batch]) -> None:
        """Train to the end.

        Args:
            batches: the micro-batches from step ``state.step`` on, ``accumulate`` for each step.  Where it
                has an attribute ``stopping``, that is set to tell it whether the run was asked to stop.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite; before the optimizer step.
            Interrupted: Ctrl-C, SIGTERM or SIGHUP; after the step and its checkpoint.
            LostWorkerError, LostRankError: a loading process, or another rank, is gone; after the checkpoint
                of the last whole step.
            WriteError: the last checkpoint could not be written.
            UserError: out of memory, or what ``guard`` raises.
        """
        self._wrapped.train()
        if self._ranks.is_main:
            self._begin_soundness()
        with StopRequest() as stop:
            self._evaluate_if_due(stop)  # one that an interruption cut off
            if hasattr(batches, "stopping"):
                batches.stopping = lambda: stop.signal_number != 0
            source = iter(batches)
            try:
                self._loop(source, stop)
            except _AbandonedError as abandoned:
                self._leave(abandoned, stop)
            finally:
                close = getattr(source, "close", None)  # ends loading processes, whatever their state
                if close is not None:
                    close()
        self._finish()

    def _loop(self, source: Iterator[Batch], stop: StopRequest) -> None:
        self._tally = _Tally()
        while self.state.step < self._total:
            stopping = self._step(source, stop)
            step = self.state.step
            last = step == self._total
            if step % self._log_every == 0 or last or stopping:
                self._ask_guard()
                self._log()
            due = self._checkpoint_every is not None and step % self._checkpoint_every == 0
            if due or last or stopping or self._evaluation_due() or self._may_try_again():
                self._save()
            if stopping and not last:
                self._interrupt(stop)
            self._evaluate_if_due(stop)

    def _step(self, source: Iterator[Batch], stop: StopRequest) -> bool:
        """One optimizer step; whether some rank was asked to stop.

        Raises:
            _AbandonedError: it was given up; model and optimizer are as before.
        """
        step = self.state.step
        lr = self._learning_rate(step)
        before = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        infos: list[ImageInfo] = []
        statistics = self._statistics()
        try:
            values, stopping = self._gradients(source, step, infos, stop)
        except (RuntimeError, MemoryError, StalledError, LostWorkerError) as error:
            if faults.is_out_of_memory(error):
                images = faults.name_images(infos)
                raise UserError(faults.out_of_memory_message(step + 1, images, self._safe)) from error
            why: UserError | None = error if isinstance(error, LostWorkerError) else None
            if isinstance(error, RuntimeError):
                lost = self._ranks.size > 1 and faults.is_lost_rank(error)
                if not lost:
                    raise
                # While all are told to stop, a rank that did so first is missing in the others' sums.
                if stop.signal_number == 0:
                    why = faults.LostRankError("another process of this run is gone, see its messages")
            for buffer, copy in statistics:
                buffer.copy_(copy)
            for group, rate in zip(self.optimizer.param_groups, before, strict=True):
                group["lr"] = rate
            raise _AbandonedError(why) from None
        self._stop_if_non_finite(faults.non_finite_losses(values), infos, lr)
        self._clip_gradients(infos, lr)
        self._precision.scaler.step(self.optimizer)
        self._precision.scaler.update()
        self.state = replace(self.state, step=step + 1)
        tally = self._tally
        tally.steps += 1
        tally.images += len(infos) * self._ranks.size
        for name, value in values.items():
            tally.losses[name] = tally.losses.get(name, 0.0) + value
        return stopping

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers that a forward pass changes, with copies, where a step may be given up after one."""
        if self._accumulate == 1 and self._ranks.size == 1:
            return []
        return [
            (buffer, buffer.clone())
            for module in self.model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.training
            for buffer in module.buffers(recurse=False)
        ]

    def _gradients(
        self, source: Iterator[Batch], step: int, infos: list[ImageInfo], stop: StopRequest
    ) -> tuple[dict[str, float], bool]:
        """Forward and backward of every micro-batch: mean losses over micro-batches and ranks, stop wish.

        The losses are read back only after the last backward pass has been queued, so that a GPU never
        waits for the host.
        """
        device = self._ranks.device
        sums: dict[str, Tensor] = {}
        for micro in range(self._accumulate):
            began = time.perf_counter()
            batch = next(source)
            self._tally.waiting += time.perf_counter() - began
            infos += batch.infos
            batch = batch.to(device)
            seed_step(self._seed, step, self._ranks.rank, micro)
            given = {} if batch.proposals is None else {"proposals": batch.proposals}
            final = micro == self._accumulate - 1
            no_sync = getattr(self._wrapped, "no_sync", nullcontext)
            with nullcontext() if final else no_sync():
                with self._precision.autocast():
                    args = (batch.images, batch.targets, batch.seeds)
                    losses: dict[str, Tensor] = self._wrapped(*args, **given)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().float() / self._accumulate
                if final:
                    self._readback.start(sums, stop.signal_number != 0 or self._problem is not None)
                total = torch.stack([value.float() for value in losses.values()]).sum() / self._accumulate
                self._precision.scaler.scale(total).backward()
        return self._readback.finish()

    def _stop_if_non_finite(self, what: list[str], infos: list[ImageInfo], lr: float) -> None:
        if not what:  # the same on all ranks, since the losses were summed over them
            return
        images = [info for part in self._ranks.gather(infos) for info in part]
        names, safe = self._ranks.share((faults.name_images(images), self._safe))
        step = self.state.step + 1
        raise faults.NonFiniteError(faults.non_finite_message(step, what, names, lr, safe))

    def _clip_gradients(self, infos: list[ImageInfo], lr: float) -> None:
        """Clip, and check; on a GPU without clipping neither, since the norm would have to be waited for."""
        if self._clip is None and self._ranks.device.type == "cuda":
            return
        self._precision.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self._parameters, math.inf if self._clip is None else self._clip)
        if not self._precision.scaler.is_enabled():  # else the scaler skips the step and lowers its scale
            bad = [] if math.isfinite(norm) else [f"the gradient's norm is {norm}"]
            self._stop_if_non_finite(bad, infos, lr)
        self._grad_norm = norm

    def _log(self) -> None:
        tally, self._tally = self._tally, _Tally()
        if not tally.steps or self._problem is not None:
            return
        losses = {name: value / tally.steps for name, value in tally.losses.items()}
        self._tell_loss(sum(losses.values()))
        if self._events is None:
            return
        self._events.progress(
            TrainingProgress(
                step=self.state.step,
                total=self._total,
                losses=losses,
                lr=self._learning_rate(self.state.step - 1),
                steps=tally.steps,
                images=tally.images,
                seconds=time.perf_counter() - tally.began,
                waiting=tally.waiting,
                grad_norm=self._grad_norm,
                memory=memory_in_use(self._ranks.device),
            )
        )

    def _ask_guard(self) -> None:
        """What it raises stops all ranks together, at the end of the next step."""
        if self._guard is not None and self._problem is None:
            try:
                self._guard()
            except UserError as error:
                self._problem = error

    def _may_try_again(self) -> bool:
        return self._unsaved is not None and self._checkpoints is not None and self._checkpoints.has_room()

    def _save(self, *, best: bool = False) -> bool:
        """Write a checkpoint, on rank 0; a failure is told, and tried again after each step.

        Returns:
            whether it was written; True on other ranks.
        """
        step = self.state.step
        if self._checkpoints is None:
            self._saved = step
            return True
        self._ask_guard()
        if self._problem is not None:
            return False
        self._tell_ruin()
        full = replace(
            self.state,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self._precision.scaler.state_dict(),
        )
        try:
            self._checkpoints.save(full, best=best)
        except WriteError as error:
            if self._unsaved is None:
                self._console.warn(
                    f"step {step}: {error}; {self._at_stake('at stake')}; it is tried again after each step"
                )
            self._unsaved = error
            return False
        if self._unsaved is not None:
            self._console.line(f"step {step}: the checkpoint is written again")
        self._unsaved = None
        self._saved = step
        if step not in self._ruined:
            self._sound = step
        return True

    def _at_stake(self, fate: str) -> str:
        """What is lost, or would be if the run ended now."""
        if self._saved is None:
            return f"nothing of this run was saved before, so all {self.state.step} steps are {fate}"
        steps = self.state.step - self._saved
        if not steps:
            return f"the checkpoint of step {self._saved} is there without its evaluation's figures"
        return f"the steps since the checkpoint of step {self._saved} ({steps}) are {fate}"

    def _begin_soundness(self) -> None:
        self._soundness = Soundness(self._parameters)
        what = self._soundness.ruined_from_the_start()
        if what is not None and self._checkpoints is not None:
            older = [step for step, _ in self._checkpoints.steps() if step != self.state.step]
            self._checkpoints.kept |= set(older)
            self._sound = older[0] if older else None
            self._ruined.add(self.state.step)
            sound = None if self._sound is None else self._checkpoints.path_of(self._sound)
            self._console.warn(faults.ruined_message(self.state.step, what, sound))

    def _tell_ruin(self) -> None:
        """Weights that are finite and ruined are told once; the last sound checkpoint is then not dropped."""
        assert self._checkpoints is not None
        what = None if self._soundness is None else self._soundness.weights()
        if what is None:
            return
        if not self._ruined:
            sound = None if self._sound is None else self._checkpoints.path_of(self._sound)
            self._checkpoints.kept |= set() if self._sound is None else {self._sound}
            self._console.warn(faults.ruined_message(self.state.step, what, sound))
        self._ruined.add(self.state.step)

    def _tell_loss(self, total: float) -> None:
        what = None if self._soundness is None else self._soundness.loss(total)
        if what is not None and not self._loss_told:
            self._loss_told = True
            self._console.warn(
                f"step {self.state.step}: {what}: the learning rate is too high in all likelihood; lower"
                " solver.optimizer.lr, raise solver.schedule.warmup_steps, or set solver.clip_grad_norm"
            )

    def _evaluation_due(self) -> bool:
        step = self.state.step
        if self._evaluate is None or step == 0 or self.state.evaluated == step:
            return False
        return step == self._total or (self._eval_every is not None and step % self._eval_every == 0)

    def _evaluate_if_due(self, stop: StopRequest) -> None:
        if not self._evaluation_due():
            return
        assert self._evaluate is not None
        began, step = time.perf_counter(), self.state.step
        metrics = self._evaluate(step, lambda: stop.signal_number != 0)
        self._wrapped.train()
        alone = self._ranks.size == 1
        if metrics is None or (alone and stop.signal_number != 0 and not metrics):
            self._interrupt(stop)
            return
        metrics = self._ranks.share(dict(metrics))
        record = improved(metrics, self._best_metric, self.state.best, step)
        before = self.state
        self.state = replace(self.state, evaluated=step, best=record or self.state.best)
        seconds = time.perf_counter() - began
        if self._events is not None:
            self._events.evaluation(step, metrics, seconds)
        self._console.line(f"evaluation at step {step} took {format_seconds(seconds)}")
        if not self._save(best=record is not None):
            # A later checkpoint has other weights, so the best one is looked for among those to come.
            self.state = replace(self.state, best=before.best)
        self._tally.began += time.perf_counter() - began

    def _finish(self) -> None:
        """The end of the run is an error where its last checkpoint is not on the disk."""
        if self._unsaved is not None:
            self._save()
        problem = self._ranks.share(self._last_word())
        if problem is not None:
            raise problem

    def _interrupt(self, stop: StopRequest) -> None:
        if self._unsaved is not None:
            self._save()
        problem = self._ranks.share(self._last_word())
        if problem is not None:
            raise problem
        raise self._interrupted(stop)

    def _leave(self, abandoned: _AbandonedError, stop: StopRequest) -> None:
        """Save the last whole step and go, without waiting for other ranks: they may be gone."""
        self._log()
        if self._ranks.is_main and (self._saved != self.state.step or self._unsaved is not None):
            self._save()
        kept = self._safe if self._ranks.is_main else "the checkpoint is rank 0's to write"
        problem = self._last_word()
        if problem is not None:
            raise problem
        if abandoned.why is not None:
            stopped = f"{abandoned.why}; stopped after step {self.state.step}, {kept}"
            raise type(abandoned.why)(f"{stopped}; to go on: {self._resume_hint}")
        raise self._interrupted(stop, "checkpoint written" if self._ranks.is_main else kept)

    def _last_word(self) -> UserError | None:
        """What makes the end of a run an error, on rank 0."""
        if self._problem is not None:
            return self._problem
        if self._unsaved is not None:
            return WriteError(
                f"stopped after step {self.state.step}: {self._unsaved}; {self._at_stake('lost')}"
            )
        return None

    def _interrupted(self, stop: StopRequest, kept: str = "checkpoint written") -> Interrupted:
        number = stop.signal_number or signal.SIGINT  # 0: another rank was asked
        return Interrupted(
            f"stopped by {signal.Signals(number).name} after step {self.state.step} of {self._total},"
            f" {kept}; to go on: {self._resume_hint}",
            number,
        )
