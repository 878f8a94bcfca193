"""What is seen of a run while it runs: progress lines, metrics.jsonl, trackers."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np

from maskrcnn.config.registry import Registry
from maskrcnn.engine.console import Console
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.metrics_file import MetricsFile
from maskrcnn.engine.outcomes import StepResult
from maskrcnn.errors import cut, plural
from maskrcnn.files import unwritten, write_text

#: What each loss tells, by the name that progress lines give it.
_MEANING = {
    "rpn_cls": "which anchors hold an object",
    "rpn_box": "boxes of the proposals",
    "box_cls": "classes of the boxes",
    "box_reg": "edges of the boxes",
    "mask": "masks in them",
    "keypoint": "keypoints in them",
}
#: Above this share of the time spent waiting for data the user is told once.
_DATA_BOUND = 0.3
#: Steps that tell the loss at the beginning, and those after them before it is judged whether it falls.
_FIRST_STEPS, _LATER_STEPS = 50, 450
#: Characters of what a failing tracker said.
_SAID = 300


#: How a call ended: its run is whole; it was told to stop, and can go on; or an error ended it.
Ended = Literal["whole", "interrupted", "failed"]


class Tracker(Protocol):
    """Where the records and pictures of a run go besides its own files.

    One that can neither drop what a resumed run makes again nor hide it has a true attribute ``keeps_all``:
    then it is not given twice what it was given by an earlier call of the same run.
    """

    def file(self, kind: str) -> Path | None:
        """The file in the run's folder that records of a kind (``train``, ``eval``, ``classes``, ``end``,
        ``picture``) are added to: where an OSError keeps one from it, it is to go out with the next.

        None: there is no such file.
        """
        ...

    def record(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Keep a record: name -> number, or a text, which a tracker may leave out."""
        ...

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Keep a picture, uint8 [H, W, 3] RGB, where the tracker takes pictures."""
        ...

    def close(self, ended: Ended) -> None:
        """Write everything out."""
        ...


class TrackerConfig(Protocol):
    """What fills a place of ``train.trackers``."""

    @property
    def package(self) -> str:
        """The Python package that it needs; empty: none."""
        ...

    def open(self, folder: Path, start_step: int, settings: Mapping[str, str]) -> Tracker:
        """Begin, or go on with what an earlier call began for the same folder.

        Args:
            folder: the run's.
            start_step: the finished step that training goes on from; records of later ones are about to be
                made again.
            settings: the recipe, key path -> value.

        Raises:
            ImportError: its package is not installed.
        """
        ...


#: The slot ``train.trackers``.
TRACKERS: Registry[TrackerConfig] = Registry(
    "tracker", "maskrcnn.engine", tensorboard="board", csv="csv_files", wandb="wandb_run", mlflow="mlflow_run"
)


def curves(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by the names of their curves: ``loss/mask``, ``train/lr``, ``eval/segm/AP``."""
    groups = {name: "loss" if kind == "train" and name.startswith("loss") else kind for name in values}
    return {
        name if name.startswith("val/") else f"{groups[name]}/{name.removeprefix('loss_')}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float)
    }


def kept_word(path: Path, make: Callable[[], str]) -> str:
    """What a small text file holds; where there is none yet, what ``make`` gives is kept in it."""
    if not path.exists():
        write_text(path, make() + "\n", sync=True)
    return path.read_text(encoding="utf-8").strip()


@dataclass
class Tally:
    """What was done since the last log.

    losses: name -> sum over the steps of means over passes and ranks; :meth:`means` has the mean.
    steps, images: how many; images over all ranks.
    waiting: seconds that this rank waited for data.
    grad_norm: before clipping, of the last step; None where nothing is clipped.
    began: when, by ``time.perf_counter``; time that is spent on something else is added to it.
    """

    losses: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0
    images: int = 0
    waiting: float = 0.0
    grad_norm: float | None = None
    began: float = field(default_factory=lambda: time.perf_counter())

    def add(self, done: StepResult) -> None:
        """Count one step."""
        self.steps += 1
        self.images += done.images
        self.waiting += done.waiting
        self.grad_norm = done.grad_norm
        for name, value in done.losses.items():
            self.losses[name] += value

    def means(self) -> dict[str, float]:
        """name -> mean loss, of at least one step."""
        return {name: value / self.steps for name, value in self.losses.items()}


@dataclass
class Events:
    """Progress lines, ``metrics.jsonl`` in the run folder, and trackers; on rank 0 alone.

    What cannot be written goes to ``console.unwritten``.  A tracker that fails in another way is told once
    and left out from then on.

    folder: the run folder; exists.
    console: where lines go.
    start_step: the step training goes on from; later records are dropped.
    tensorboard: also write ``folder/tensorboard``; a missing package is a warning.
    epoch_images: how many make an epoch, for progress lines; None: they do not tell epochs.
    trackers: further ones; that of TensorBoard counts once.
    settings: the recipe, key path -> value, for trackers.
    unchanged: whether the steps behind ``start_step`` that an earlier call made are made again as they were.

    Raises:
        OutputError: an earlier ``metrics.jsonl`` cannot be shortened to ``start_step``.
    """

    folder: Path
    console: Console
    _: KW_ONLY
    start_step: int = 0
    tensorboard: bool = True
    epoch_images: int | None = None
    trackers: Sequence[TrackerConfig] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    unchanged: bool = True

    def __post_init__(self) -> None:
        metrics = self.folder / "metrics.jsonl"
        try:
            self._metrics = MetricsFile(metrics, self.start_step)
        except OSError as error:
            raise unwritten(metrics, error) from None
        self._pace: float | None = None
        self._told_data_bound = False
        self._told_legend = False
        self._told_nothing_found = False
        self._fall = Fall() if self.start_step == 0 else None
        wanted = {TRACKERS.name_of(type(config)): config for config in self.trackers}
        if self.tensorboard and "tensorboard" not in wanted:
            wanted["tensorboard"] = TRACKERS.make("tensorboard")
        self._open: dict[str, Tracker] = {}
        for name, config in wanted.items():
            try:
                self._open[name] = config.open(self.folder, self.start_step, self.settings)
            except ImportError as error:
                if name == "tensorboard":
                    why = "TensorBoard logs are off: the package 'tensorboard' is not installed"
                    self.console.warn(why)
                else:
                    self._leave_out(name, error)
            except Exception as error:
                self._leave_out(name, error)

    def progress(
        self,
        done: Tally,
        *,
        step: int,
        total: int,
        lr: float,
        memory: int,
        rates: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Show and keep one log step; before the first, what the parts of a line mean.

        Args:
            done: since the last log; at least one step.
            step: finished optimizer steps; total: how many there will be.
            lr: learning rate of the last step.
            memory: bytes, see ``engine.memory.memory_in_use``.
            rates: learning rates of parts that have their own, by name.
        """
        losses, seconds = done.means(), max(time.perf_counter() - done.began, 1e-9)
        if not self._told_legend:
            self._told_legend = True
            self.console.line(describe_legend(losses, clipped=done.grad_norm is not None))
        total_loss, rate, waiting = sum(losses.values()), done.images / seconds, done.waiting / seconds
        # Exponential mean for the ETA: one slow step must not double it.
        pace = seconds / done.steps
        self._pace = pace if self._pace is None else 0.7 * self._pace + 0.3 * pace
        epoch = ""
        if self.epoch_images:  # images seen by all ranks, in training sets
            share = done.images / done.steps / self.epoch_images
            epoch = f"epoch {step * share:.2f}/{total * share:.2f}  "
        other = f" ({', '.join(f'{name} {value:.2e}' for name, value in rates.items())})" if rates else ""
        clip = "" if done.grad_norm is None else f"  grad {done.grad_norm:.2f}"
        self.console.line(
            f"step {step}/{total}  {epoch}loss {total_loss:.3f} ({describe_losses(losses)})"
            f"  lr {lr:.2e}{other}{clip}  {rate:.2f} img/s  data {waiting:.0%}"
            f"  mem {memory / 2**30:.2f} GiB  eta {format_seconds(self._pace * (total - step))}"
        )
        values = {"loss": total_loss, **losses, "lr": lr, "images_per_second": rate, "data_wait": waiting}
        values |= {f"lr/{name}": value for name, value in rates.items()}
        values["memory_bytes"] = memory
        if done.grad_norm is not None:
            values["grad_norm"] = done.grad_norm
        self._write(step, "train", values)
        if waiting > _DATA_BOUND and step > 20 and not self._told_data_bound:
            self._told_data_bound = True
            self.console.warn(
                f"{waiting:.0%} of the time is spent waiting for data;"
                " raise data.workers, or use smaller images"
            )
        told = None if self._fall is None else self._fall.add(total_loss, done.steps)
        if told is not None:
            self._fall = None
            if told:
                self.console.warn(f"step {step}: {told}")

    def evaluation(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Keep the figures of an evaluation; where it found nothing for the first time, that is told."""
        self._write(step, "eval", {**metrics, "seconds": seconds})
        found = [
            value for name, value in metrics.items() if re.fullmatch(r"(ema/)?(bbox|segm|keypoints)/AP", name)
        ]
        if found and not any(found) and not self._told_nothing_found:
            self._told_nothing_found = True
            self.console.warn(
                f"the evaluation at step {step} found nothing that is right (AP is 0): usual within the first"
                " hundreds of steps; later look at pictures/, at `maskrcnn doctor`, and at docs/low_ap.md"
            )

    @property
    def tracked(self) -> bool:
        """Whether a tracker is open that may take pictures."""
        return bool(self._open.keys() - {"csv"})

    def classes(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep figures of single classes, ``segm/AP/person``: by trackers alone; there may be many."""
        self._track("classes", step, lambda tracker: tracker.record(step, "classes", figures))

    def end(self, step: int, why: str) -> None:
        """Keep that the run has ended after ``step``, though others were planned."""
        self._write(step, "end", {"why": why})

    def _write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        file = self._metrics
        self.console.unwritten.attempt(file.path, lambda: file.write(step, kind, values), grows=True)
        self._track(kind, step, lambda tracker: tracker.record(step, kind, values))

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Keep a picture, uint8 [H, W, 3] RGB."""
        self._track("picture", step, lambda tracker: tracker.picture(step, name, image))

    def _track(self, kind: str, step: int | None, act: Callable[[Tracker], None]) -> None:
        """Have each tracker do something with a record of a kind, of a step or of none."""
        # Pictures and figures of classes go out with an evaluation, before its record.
        known = ("train" if kind == "train" else "eval", step) in self._metrics.dropped and self.unchanged
        for name, tracker in list(self._open.items()):
            if known and getattr(tracker, "keeps_all", False):
                continue
            try:
                file = tracker.file(kind)
                if file is None:
                    act(tracker)
                else:
                    self.console.unwritten.attempt(file, partial(act, tracker), grows=True)
            except Exception as error:
                del self._open[name]
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        said = cut(" ".join(str(error).split()), _SAID)
        self.console.warn(
            f"the tracker {name} failed ({type(error).__name__}{f': {said}' if said else ''}); the run goes"
            " on without it"
        )

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Context of a training, after which all is written out."""
        ended: Ended = "failed"
        try:
            yield
            ended = "whole"
        except (Interrupted, KeyboardInterrupt):
            ended = "interrupted"
            raise
        finally:
            self.close(ended)

    def close(self, ended: Ended = "whole") -> None:
        """Write everything out."""
        file = self._metrics
        self.console.unwritten.attempt(file.path, file.close, grows=True)
        self._track("end", None, lambda tracker: tracker.close(ended))
        self._open.clear()


class Fall:
    """Whether the loss falls at all from its beginning, judged once."""

    def __init__(self) -> None:
        self._first: list[tuple[float, int]] = []
        self._later: list[tuple[float, int]] = []

    def add(self, loss: float, steps: int) -> str | None:
        """Take the mean loss of some further steps.

        Returns:
            None: not known yet; empty: it falls; else a sentence.
        """
        first, later = self._first, self._later
        into = first if sum(n for _, n in first) < _FIRST_STEPS else later
        into.append((loss, steps))
        made = sum(n for _, n in later)
        if made < _LATER_STEPS:
            return None
        half = later[len(later) // 2 :]  # the newer ones
        before, now = (sum(v * n for v, n in part) / sum(n for _, n in part) for part in (first, half))
        if not now >= before:
            return ""
        return (
            f"the loss does not fall: {before:.3g} over the first {plural(sum(n for _, n in first), 'step')},"
            f" {now:.3g} over the last {sum(n for _, n in half)}. Where training began with weights of the"
            " same classes that may be so; else look whether the labels fit (maskrcnn doctor, maskrcnn"
            " browse), and try another solver.optimizer.lr (docs/low_ap.md)"
        )


def describe_legend(losses: Mapping[str, float], *, clipped: bool) -> str:
    """What progress lines with these losses tell; parts of one's own have names that speak for themselves."""
    names = dict.fromkeys(re.sub(r"^loss_|_stage\d+$", "", name) for name in losses)
    parts = ", ".join(f"{name}: {_MEANING[name]}" for name in names if name in _MEANING)
    return (
        f"loss is the sum of what follows it, lower is better{f' ({parts})' if parts else ''}"
        "; lr: learning rate"
        + ("; grad: norm of the gradient before clipping" if clipped else "")
        + "; data: share of the time spent waiting for images; eta: time left"
    )


def describe_losses(losses: Mapping[str, float]) -> str:
    """``loss_mask`` 1.0 -> ``mask 1.000``; a cascade's stages together: ``box_cls 1.000/0.800/0.700``."""
    parts: dict[str, list[str]] = {}
    for name, value in losses.items():
        parts.setdefault(re.sub(r"^loss_|_stage\d+$", "", name), []).append(f"{value:.3f}")
    return " ".join(f"{name} {'/'.join(values)}" for name, values in parts.items())


def format_seconds(seconds: float) -> str:
    """``75`` -> ``1m15s``, ``7500`` -> ``2h05m``, ``200000`` -> ``2d07h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
