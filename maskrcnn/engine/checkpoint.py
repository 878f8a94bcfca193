"""Checkpoints: one file that says everything, written whole or not at all, and read without running code.

A run's state is made of named parts: a checkpoint holds each under its name, and may lack any but the model.
A new kind of state is one more part, whose default stands for the files from before there was one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrcnn.errors import CheckpointError, UserError, few
from maskrcnn.files import FULL, reason, save_tensors
from maskrcnn.weights.safe_load import first_line, safe_load

_FORMAT = "maskrcnn-checkpoint"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything needed to go on, or to predict, without another file.

    model: the model's state dict.
    optimizer, scaler: their state dicts; empty in a file made for predictions alone.
    step: finished optimizer steps.
    evaluated: the step whose evaluation is finished, 0 before the first.
    best: name -> value of the best metric so far, and its step; empty before the first evaluation.
    config: the resolved recipe, YAML text.
    category_ids, category_names: the data set's classes, in the order of the head's outputs.
    image_size: median height and width of the training images, pixels; empty in files from before.
    object_sides: lower quartile, median and upper quartile of the sides of the training objects as the
        network sees them in an evaluation, pixels; empty where that is not known, and in files from before.
    versions: of maskrcnn and torch, when it was written.
    more: the states of further parts by name (see :class:`Part`), known to the reader or not.

    In the file each has its name; what a file lacks, other than the model, has its default.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    evaluated: int = 0
    best: dict[str, float] = field(default_factory=dict)
    config: str = ""
    category_ids: tuple[int, ...] = ()
    category_names: tuple[str, ...] = ()
    image_size: tuple[int, ...] = ()
    object_sides: tuple[float, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def states(self) -> dict[str, Any]:
        """The state of each part by its name."""
        return {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler, **self.more}

    def with_states(self, states: Mapping[str, Any]) -> Checkpoint:
        """The same with ``states``, the model's among them, in place of its own."""
        more = {name: state for name, state in states.items() if state and name not in _OWN}
        return replace(self, **{name: states.get(name, {}) for name in _OWN}, more=more)


#: What a file holds besides further parts, and those of it that are states.
_FIELDS = tuple(f.name for f in fields(Checkpoint) if f.name != "more")
_OWN = ("model", "optimizer", "scaler")
#: Further parts that only some runs have, and the key that asks for each.
OPTIONAL = {"ema": "solver.ema", "budget": "train.hours"}
#: Among ``versions``: that of the maskrcnn that left out what only a training needs.
STRIPPED = "stripped"
#: Further parts of a training, of which predictions have no use.
_OF_TRAINING = ("recovery", "shares")


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``path`` atomically: it holds the old file or the new one, whole, whatever happens.

    Raises:
        WriteError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    content = checkpoint.more | {name: getattr(checkpoint, name) for name in _FIELDS}
    content |= {"format": _FORMAT, "format_version": _VERSION}
    content["category_ids"] = list(checkpoint.category_ids)
    content["category_names"] = list(checkpoint.category_names)
    _write(content, path)


def write_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a bare state dict, for other programs or as a backbone's weights; atomically, as :func:`save`.

    Raises:
        WriteError: as :func:`save`.
    """
    _write(dict(state), path)


class WriteError(CheckpointError):
    """A checkpoint could not be written; what was there before is as it was."""


def _write(content: Mapping[str, Any], path: Path) -> None:
    try:
        save_tensors(path, content)
    except (OSError, RuntimeError) as error:
        why = reason(error, path.parent) if isinstance(error, OSError) else first_line(error)
        full = isinstance(error, OSError) and error.errno in FULL
        advice = "make room" if full else "check the folder and its permissions"
        raise WriteError(
            f"{path}: the checkpoint could not be written: {why}; {advice}; earlier checkpoints are untouched"
        ) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, tensors on the CPU.  Never executes anything the file contains.

    Raises:
        CheckpointError: no such file, cut short, damaged, not ours, or holding more than plain data.
    """
    content = safe_load(path)
    if not _is_ours(content):
        raise CheckpointError(
            f"{path}: not a checkpoint of maskrcnn (no 'format: {_FORMAT}' inside); a bare state dict can"
            " start a training through the key 'weights', after conversion of its names"
        )
    if content.get("format_version") != _VERSION:
        raise CheckpointError(
            f"{path}: written in format version {content.get('format_version')!r}, this maskrcnn reads"
            f" {_VERSION}; use the maskrcnn that wrote it ({content.get('versions')})"
        )
    if not isinstance(content.get("model"), Mapping):
        raise CheckpointError(f"{path}: incomplete checkpoint, without a model; use another one")
    blank = Checkpoint(model={})
    values: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for name, value in content.items():
        if name not in _FIELDS:
            more |= {name: value} if name not in ("format", "format_version") else {}
        elif value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
            kind = type(getattr(blank, name))
            if not isinstance(values[name], kind):
                raise CheckpointError(
                    f"{path}: damaged, its {name} is of type {type(value).__name__}; use another one"
                )
    return Checkpoint(**values, more=more)


def _is_ours(content: Any) -> bool:
    return isinstance(content, Mapping) and content.get("format") == _FORMAT


def refuse_stripped(checkpoint: Checkpoint, path: Path) -> None:
    """
    Raises:
        CheckpointError: the checkpoint is for inference alone, so that no run can go on from it.
    """
    if STRIPPED in checkpoint.versions:
        raise CheckpointError(
            f"{path}: is for inference alone (maskrcnn strip left the optimizer's state out), so no run goes"
            f" on from it; begin a new one from its weights: maskrcnn train CONFIG --set weights={path}"
            " --output ANOTHER_FOLDER"
        )


def load_if_ours(path: Path) -> Checkpoint | None:
    """:func:`load`; None where it is another program's file.

    Raises:
        CheckpointError: as there, but for that.
    """
    return load(path) if _is_ours(safe_load(path)) else None


def load_weights(path: Path) -> Checkpoint:
    """A checkpoint to start from, or a file that is a state dict alone, as one that says nothing else.

    Raises:
        CheckpointError: as :func:`load`, or neither of the two.
    """
    content = safe_load(path)
    if _is_ours(content):
        return load(path)
    if isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values()):
        return Checkpoint(model=dict(content))
    raise CheckpointError(f"{path}: neither a checkpoint of maskrcnn nor a state dict (name -> tensor)")


@dataclass(frozen=True)
class Part:
    """One piece of a run's state.

    save: gives it, tensors and plain containers alone; called on all ranks at once.
    load: takes it over; its second argument is the file that it comes from, for messages.
    default: what a file without it stands for, empty: as it was built; None: the same, and that is told.
    absent: what else is told of a file without it, what the file does and what follows.
    """

    save: Callable[[], dict[str, Any]]
    load: Callable[[dict[str, Any], Path], object]
    default: Callable[[], dict[str, Any]] | None = None
    absent: str = ""


#: By the name in the file, in the order of loading.
Parts = Mapping[str, Part]


def load_parts(parts: Parts, checkpoint: Checkpoint, source: Path) -> None:
    """Give every part its state, or its default; on all ranks at once.

    Raises:
        CheckpointError: a state does not fit its part.
    """
    for name, part in parts.items():
        state = checkpoint.states.get(name) or (part.default() if part.default else {})
        try:
            if state:
                part.load(state, source)
        except UserError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{source}: its {name} does not fit ({first_line(error)}); begin a new run with weights: that"
                " file"
            ) from None


def incomplete(parts: Parts, checkpoint: Checkpoint, source: Path) -> list[str]:
    """A sentence on what ``checkpoint`` lacks, and one on what it holds besides ``parts``."""
    lacks = [n for n, part in parts.items() if part.default is None and not checkpoint.states.get(n)]
    lacks += [name for name in ("config", "category_ids") if not getattr(checkpoint, name)]
    without = [f"{source} does not hold {few(lacks)}, so the run goes on without"] if lacks else []
    without += [f"{source} {p.absent}" for n, p in parts.items() if p.absent and not checkpoint.states.get(n)]
    unasked = few(repr(name) for name in checkpoint.more if name in OPTIONAL and name not in parts)
    if unasked:
        keys = few(OPTIONAL[name] for name in checkpoint.more if name in OPTIONAL and name not in parts)
        without.append(f"{source} holds {unasked}, which is left out, since {keys} is not set now")
    return without + unknown(checkpoint, source, parts)


def unknown(checkpoint: Checkpoint, source: Path, parts: Parts | None = None) -> list[str]:
    """A sentence on what ``checkpoint`` holds besides ``parts``, where there is anything not known here."""
    known = {*(parts or _OF_TRAINING), *OPTIONAL}
    names = few(repr(name)[:60] for name in checkpoint.more if name not in known)
    if not names:
        return []
    return [f"{source} holds {names}, unknown here (a later maskrcnn may have written it), and left out"]


def with_average(checkpoint: Checkpoint, source: Path) -> Checkpoint:
    """The same with the average of its weights for its model's.

    Raises:
        CheckpointError: it holds none.
    """
    average = checkpoint.more.get("ema")
    if not average:
        raise CheckpointError(
            f"{source}: holds no average of the weights (its training was without solver.ema); take the"
            " weights themselves, by eval.ema: false"
        )
    return replace(checkpoint, model={**checkpoint.model, **average})
