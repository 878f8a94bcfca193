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

from maskrcnn.engine import faults
from maskrcnn.engine.best import improved
from maskrcnn.engine.checkpoint import Checkpoint, CheckpointFolder
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.events import Events, Progress, format_seconds
from maskrcnn.engine.interrupt import Interrupted, StopRequest
from maskrcnn.engine.memory import memory_in_use
from maskrcnn.engine.optim import clip_gradients
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.readback import Readback
from maskrcnn.engine.seed import step_generator
from maskrcnn.errors import UserError
from maskrcnn.structures import Batch, ImageInfo

#: (finished step, whether to break off) -> metric name -> value, on rank 0; empty on the others.
Evaluate = Callable[[int, Callable[[], bool]], Mapping[str, float]]


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
    ) -> None:
        """
        Args:
            model: called as ``model(images, targets, generator)``, and with ``proposals=`` where the batch
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
        self._safe = "no checkpoint was written yet"

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take over scaler, step and best metric; model and optimizer are restored by the caller."""
        if checkpoint.scaler:
            self._precision.scaler.load_state_dict(checkpoint.scaler)
        self.state = replace(
            self.state, step=checkpoint.step, evaluated=checkpoint.evaluated, best=checkpoint.best
        )
        self._safe = f"the checkpoint of step {checkpoint.step} is kept"

    def fit(self, batches: Iterable[Batch]) -> None:
        """Train to the end.

        Args:
            batches: the micro-batches from step ``state.step`` on, ``accumulate`` for each step.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite; before the optimizer step.
            Interrupted: Ctrl-C or SIGTERM; after the step and its checkpoint.
            UserError: out of memory.
        """
        self._wrapped.train()
        with StopRequest() as stop:
            self._evaluate_if_due(stop)  # one that an interruption cut off
            source = iter(batches)
            self._tally = _Tally()
            while self.state.step < self._total:
                stopping = self._step(source, stop)
                step = self.state.step
                last = step == self._total
                if step % self._log_every == 0 or last or stopping:
                    self._log()
                due = self._checkpoint_every is not None and step % self._checkpoint_every == 0
                if due or last or stopping or self._evaluation_due():
                    self._save()
                if stopping and not last:
                    self._interrupt(stop)
                self._evaluate_if_due(stop)

    def _step(self, source: Iterator[Batch], stop: StopRequest) -> bool:
        """One optimizer step; whether some rank was asked to stop."""
        step = self.state.step
        lr = self._learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        infos: list[ImageInfo] = []
        try:
            values, stopping = self._gradients(source, step, infos, stop)
        except (RuntimeError, MemoryError) as error:
            if not faults.is_out_of_memory(error):
                raise
            images = faults.name_images(infos)
            raise UserError(faults.out_of_memory_message(step + 1, images, self._safe)) from error
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
            generator = step_generator(self._seed, step, self._ranks.rank, micro)
            given = {} if batch.proposals is None else {"proposals": batch.proposals}
            final = micro == self._accumulate - 1
            no_sync = getattr(self._wrapped, "no_sync", nullcontext)
            with nullcontext() if final else no_sync():
                with self._precision.autocast():
                    losses: dict[str, Tensor] = self._wrapped(batch.images, batch.targets, generator, **given)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().float() / self._accumulate
                if final:
                    self._readback.start(sums, stop.signal_number != 0)
                total = torch.stack([value.float() for value in losses.values()]).sum() / self._accumulate
                self._precision.scaler.scale(total).backward()
        return self._readback.finish()

    def _stop_if_non_finite(self, what: list[str], infos: list[ImageInfo], lr: float) -> None:
        if not what:  # the same on all ranks, since the losses were summed over them
            return
        images = [info for part in self._ranks.gather(infos) for info in part]
        names = self._ranks.share(faults.name_images(images))
        step = self.state.step + 1
        raise faults.NonFiniteError(faults.non_finite_message(step, what, names, lr, self._safe))

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
        if self._events is None:
            return
        self._events.progress(
            Progress(
                step=self.state.step,
                total=self._total,
                losses={name: value / tally.steps for name, value in tally.losses.items()},
                lr=self._learning_rate(self.state.step - 1),
                steps=tally.steps,
                images=tally.images,
                seconds=time.perf_counter() - tally.began,
                waiting=tally.waiting,
                grad_norm=self._grad_norm,
                memory=memory_in_use(self._ranks.device),
            )
        )

    def _save(self, *, best: bool = False) -> None:
        if self._checkpoints is not None:
            full = replace(
                self.state,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                scaler=self._precision.scaler.state_dict(),
            )
            self._checkpoints.save(full, best=best)
        self._safe = f"the checkpoint of step {self.state.step} is kept"

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
        alone = self._ranks.size == 1  # several ranks finish together, whatever one of them was told
        metrics = self._evaluate(step, lambda: alone and stop.signal_number != 0)
        self._wrapped.train()
        if alone and stop.signal_number != 0 and not metrics:
            self._interrupt(stop)
        metrics = self._ranks.share(dict(metrics))
        record = improved(metrics, self._best_metric, self.state.best, step)
        self.state = replace(self.state, evaluated=step, best=record or self.state.best)
        seconds = time.perf_counter() - began
        if self._events is not None:
            self._events.evaluation(step, metrics, seconds)
        self._console.line(f"evaluation at step {step} took {format_seconds(seconds)}")
        self._save(best=record is not None)
        self._tally.began += time.perf_counter() - began

    def _interrupt(self, stop: StopRequest) -> None:
        number = stop.signal_number or signal.SIGINT  # 0: another rank was asked
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} after step {self.state.step} of {self._total},"
            f" checkpoint written; to go on: {self._resume_hint}",
            number,
        )
