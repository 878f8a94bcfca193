"""A run's checkpoints: written when the loop says so, and what is told of those that fail or are ruined."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from torch import Tensor

from maskrcnn.engine.background import BackgroundWriter
from maskrcnn.engine.checkpoint import Checkpoint, Parts, WriteError
from maskrcnn.engine.checkpoint_folder import CheckpointFolder
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.faults import Soundness, is_out_of_memory
from maskrcnn.errors import UserError, plural

logger = logging.getLogger(__name__)

#: What decides which evaluation was the best, where the recipe does not say.
DEFAULT = ("segm/AP", "keypoints/AP", "bbox/AP")


@dataclass
class Saving:
    """Saves the parts of a run's state: all ranks give theirs, and rank 0 writes.

    A checkpoint that cannot be written is told once, and wished for again after each step.  Where the weights
    are ruined the last sound checkpoint stays.  As a context manager it waits at the end for what is still
    being written.

    ranks: the processes.
    parts: what a checkpoint holds, the model among it.
    folder: where they go, on rank 0; None: nowhere.
    console: where warnings go.
    weights: what is trained, and watched for ruin.
    best_metric: the metric whose best value marks ``best.pt``; None: see :func:`improved`.
    guard: raises a UserError where the run must not write any more; asked at logs and checkpoints, on rank 0
        alone.
    background: write while training goes on, which is held until the state is copied.  How a write ended is
        known later then, at the latest before the next one: see :meth:`settle`.
    """

    ranks: Ranks
    parts: Parts
    folder: CheckpointFolder | None
    _: KW_ONLY
    console: Console
    weights: Sequence[Tensor] = ()
    best_metric: str | None = None
    guard: Callable[[], None] | None = None
    background: bool = False

    def __post_init__(self) -> None:
        if not self.ranks.is_main:
            self.folder, self.guard, self.weights = None, None, ()
        self._writer = BackgroundWriter() if self.background and self.folder is not None else None
        #: The step that is being written, and what tells how that ended.
        self._pending: tuple[int, Future[Any]] | None = None
        self._soundness: Soundness | None = None
        self._ruined: set[int] = set()
        #: The step of the last checkpoint, and of the last whose weights are sound.
        self.saved: int | None = None
        self._sound: int | None = None
        #: Why the last try to write one failed, until one succeeds.
        self.unsaved: WriteError | None = None
        #: What the guard said: nothing is written any more.
        self.problem: UserError | None = None

    @property
    def safe(self) -> str:
        """Which checkpoint is kept, for messages."""
        self.settle()
        if self.saved is None:
            return "no checkpoint was written yet"
        text = f"the checkpoint of step {self.saved} is kept"
        if self.saved in self._ruined:
            sound = "none from before" if self._sound is None else f"that of step {self._sound}"
            text += f", but its weights are ruined (see the warning; sound: {sound})"
        return text

    @property
    def wished(self) -> bool:
        """Whether a checkpoint that failed may be tried again."""
        self.settle(wait=False)
        return self.unsaved is not None and self.folder is not None and self.folder.has_room()

    def __enter__(self) -> Saving:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()

    def begin(self, step: int) -> None:
        """Look at the weights that training begins with: new ones, or those of the checkpoint of ``step``."""
        self.saved = self._sound = step or None
        self._soundness = Soundness(self.weights)
        what = self._soundness.ruined_from_the_start()
        if what is not None and self.folder is not None:
            older = [other for other, _ in self.folder.steps() if other != step]
            self.folder.kept |= set(older)
            self._sound = older[0] if older else None
            self._tell_ruin(step, what)

    def ask_guard(self) -> None:
        """What it raises is kept as ``problem``; the loop then stops all ranks together."""
        if self.guard is not None and self.problem is None:
            try:
                self.guard()
            except UserError as error:
                self.problem = error

    def save(self, state: Checkpoint, *, best: bool = False, wait: bool = False) -> bool:
        """Write ``state`` with the states of all parts; called on all ranks at once.

        Args:
            wait: until it is on the disk, also where checkpoints are written in the background.

        Returns:
            whether it was written, or is being written; True on ranks other than 0.
        """
        full = state.with_states({name: part.save() for name, part in self.parts.items()})
        step, folder = state.step, self.folder
        if folder is None:
            self.saved = step
            return True
        self.settle()
        self.ask_guard()
        if self.problem is not None:
            return False
        what = None if self._soundness is None else self._soundness.weights()
        if what is not None:
            self._tell_ruin(step, what)
        if self._writer is not None and not wait:
            try:
                self._pending = (
                    step,
                    self._writer.start(
                        full.states, lambda states: folder.save(full.with_states(states), best=best)
                    ),
                )
                return True
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        try:
            folder.save(full, best=best)
        except WriteError as error:
            return self._note(step, error)
        return self._note(step, None)

    def settle(self, *, wait: bool = True) -> None:
        """Take note of how the write in the background ended, and tell it where it failed.

        Args:
            wait: for its end; else only where it has ended.
        """
        if self._pending is None or not (wait or self._pending[1].done()):
            return
        step, future = self._pending
        self._pending = None
        error = future.exception()
        if error is not None and not isinstance(error, WriteError):
            raise error
        self._note(step, error)

    def _note(self, step: int, error: WriteError | None) -> bool:
        """Whether the write of ``step`` went well, which is told where that is news."""
        if error is not None:
            if self.unsaved is None:
                at_stake = self._at_stake(step, "at stake")
                self.console.warn(f"step {step}: {error}; {at_stake}; it is tried again after each step")
            self.unsaved = error
            return False
        if self.unsaved is not None:
            self.console.line(f"step {step}: the checkpoint is written again")
        self.unsaved = None
        self.saved = step
        if step not in self._ruined:
            self._sound = step
        return True

    def save_evaluated(self, state: Checkpoint, metrics: dict[str, float]) -> Checkpoint:
        """Save ``state`` with the evaluation of its step, as the best where it is; returns that state.

        It is waited for, since what is the best depends on what is on the disk.
        """
        record = improved(metrics, self.best_metric, state.best, state.step)
        after = replace(state, evaluated=state.step, best=record or state.best)
        if self.save(after, best=record is not None, wait=True):
            return after
        # A later checkpoint has other weights, so the best one is looked for among those to come.
        return replace(after, best=state.best)

    def last_word(self, step: int) -> UserError | None:
        """What makes the end of a run after ``step`` an error, on rank 0."""
        self.settle()
        if self.problem is not None or self.unsaved is None:
            return self.problem
        return WriteError(f"stopped after step {step}: {self.unsaved}; {self._at_stake(step, 'lost')}")

    def _at_stake(self, step: int, fate: str) -> str:
        """What is lost, or would be if the run ended after ``step``."""
        if self.saved is None:
            steps = plural(step, "step is", "steps are")
            return f"nothing of this run was saved before, so {steps} {fate}"
        if step == self.saved:
            return f"the checkpoint of step {step} is there without its evaluation's figures"
        return f"the steps since the checkpoint of step {self.saved} ({step - self.saved}) are {fate}"

    def _tell_ruin(self, step: int, what: str) -> None:
        """Weights that are finite and ruined are told once; the last sound checkpoint is then not dropped."""
        assert self.folder is not None
        if not self._ruined:
            kept, weights = "no checkpoint from before is there", ""
            if self._sound is not None:
                sound = self.folder.path_of(self._sound)
                kept, weights = f"{sound} is from before and is kept", f" and --set weights={sound}"
                self.folder.kept.add(self._sound)
            self.console.warn(
                f"step {step}: {what}: they are ruined in all likelihood, and so is this checkpoint; {kept}."
                f" Stop, and begin a new run with a lower --set solver.optimizer.lr{weights}"
            )
        self._ruined.add(step)


def improved(
    metrics: Mapping[str, float], wanted: str | None, best: Mapping[str, float], step: int
) -> dict[str, float] | None:
    """The new record, or None where these metrics do not beat it.

    Args:
        metrics: name -> value, of the evaluation at ``step``; a figure that is not defined (no ground truth
            of that size) is left out.
        wanted: the metric whose highest value wins, of a loss the lowest; None: the first there is of
            :data:`DEFAULT`.
        best: the record so far, ``{metric: value, "step": step}``, or empty.
    """
    name = wanted or next((m for m in DEFAULT if m in metrics), None)
    if name is None:
        return None
    if name not in metrics:
        # That the name exists is checked before training (check_metric); what was trained must not be lost.
        logger.warning(
            "eval.best_metric: %s is not defined in this evaluation (no ground truth of that kind), so"
            " best.pt stays as it is; choose another, as %s",
            name,
            next((m for m in DEFAULT if m in metrics), "bbox/AP"),
        )
        return None
    value = metrics[name]
    if not math.isfinite(value):
        return None
    before = best.get(name)
    better = before is None or (value < before if is_loss(name) else value > before)
    return {name: value, "step": step} if better else None


def is_loss(metric: str) -> bool:
    """Whether the lowest value of a metric is the best: ``val/loss_mask``, ``ema/val/loss``."""
    return metric.removeprefix("ema/").startswith("val/")
