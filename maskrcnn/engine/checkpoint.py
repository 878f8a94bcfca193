"""Checkpoints: one file that says everything, written whole or not at all, and read without running code."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrcnn.errors import CheckpointError, few
from maskrcnn.files import FULL, free_bytes, name_also, reason, save_tensors
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
    versions: of maskrcnn and torch, when it was written.
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
    versions: dict[str, str] = field(default_factory=dict)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``path`` atomically: it holds the old file or the new one, whole, whatever happens.

    Raises:
        WriteError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    content = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}
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
    if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of maskrcnn (no 'format: {_FORMAT}' inside); a bare state dict can"
            " start a training through the key 'weights', after conversion of its names"
        )
    if content.get("format_version") != _VERSION:
        raise CheckpointError(
            f"{path}: written in format version {content.get('format_version')!r}, this maskrcnn reads"
            f" {_VERSION}; use the maskrcnn that wrote it ({content.get('versions')})"
        )
    values = {f.name: content.get(f.name) for f in fields(Checkpoint)}
    missing = [name for name, value in values.items() if value is None]
    if missing or not isinstance(values["model"], Mapping):
        raise CheckpointError(f"{path}: incomplete checkpoint, without {', '.join(missing) or 'a model'}")
    values["category_ids"] = tuple(values["category_ids"] or ())
    values["category_names"] = tuple(values["category_names"] or ())
    return Checkpoint(**values)  # type: ignore[arg-type]


def load_weights(path: Path) -> dict[str, Tensor]:
    """The model's state dict from a checkpoint, or from a file that is one.

    Raises:
        CheckpointError: as :func:`load`, or neither of the two.
    """
    content = safe_load(path)
    if isinstance(content, Mapping) and content.get("format") == _FORMAT:
        return load(path).model
    if isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values()):
        return dict(content)
    raise CheckpointError(f"{path}: neither a checkpoint of maskrcnn nor a state dict (name -> tensor)")


class CheckpointFolder:
    """A run's checkpoints: ``step_00000300.pt`` ..., with ``last.pt`` and ``best.pt`` naming two of them.

    The names are hard links where the file system has them, so they cost no space; else copies.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """
        Args:
            folder: made on the first save.
            keep: how many of the newest steps stay, >= 1; two, so that one can be lost.
        """
        self.folder = folder
        self._keep = keep
        self._made = False
        self._size = 0
        #: Steps that are not dropped, whatever their age.
        self.kept: set[int] = set()

    def steps(self) -> list[tuple[int, Path]]:
        """(step, file), the newest first."""
        found = []
        for path in self.folder.glob("step_*.pt"):
            digits = path.stem.removeprefix("step_")
            if digits.isdigit():
                found.append((int(digits), path))
        return sorted(found, reverse=True)

    def path_of(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step_{step:08d}.pt"

    def has_room(self) -> bool:
        """Whether there is room for a checkpoint as large as the last one; True where that is not known."""
        free = free_bytes(self.folder)
        return free is None or free >= self._size

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> Path:
        """Write the checkpoint of its step, point the names at it, drop the oldest.

        Raises:
            WriteError: something could not be written; no earlier checkpoint is touched.
        """
        path = self.path_of(checkpoint.step)
        self._size = max(self._size, _bytes(checkpoint.model) + _bytes(checkpoint.optimizer))
        try:
            # Not its parents again: a run's folder that is gone stays gone.
            self.folder.mkdir(parents=not self._made, exist_ok=True)
            self._made = True
            save(checkpoint, path)
            name_also(path, "last.pt")
            if best:
                name_also(path, "best.pt")
        except OSError as error:
            why = reason(error, self.folder)
            if error.errno == errno.ENOENT:
                why = "the run folder was removed or renamed"
            raise WriteError(f"{path}: the checkpoint could not be written: {why}") from error
        self._size = path.stat().st_size
        for step, old in self.steps()[self._keep :]:
            if step not in self.kept:
                old.unlink(missing_ok=True)
        return path

    def latest(self) -> tuple[Checkpoint, Path, list[str]] | None:
        """The newest readable checkpoint, its file, and a sentence for each newer one that is not.

        Returns:
            None when there is no checkpoint file at all.

        Raises:
            CheckpointError: there are files, and none can be read.
        """
        complaints: list[str] = []
        for _, path in self.steps():
            try:
                return load(path), path, complaints
            except CheckpointError as error:
                complaints.append(str(error))
        if complaints:
            raise CheckpointError(f"no checkpoint of this run can be read: {few(complaints, 5, '; ')}")
        return None


def _bytes(content: Any) -> int:
    """Of all tensors in nested containers."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        return sum(map(_bytes, content.values()))
    return sum(map(_bytes, content)) if isinstance(content, (list, tuple)) else 0


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file for ``path``: itself, or for a run's folder its best, else its last.

    Raises:
        CheckpointError: there is none.
    """
    if not path.is_dir():
        return path
    for name in ("best.pt", "last.pt"):
        for folder in (path / "checkpoints", path):
            if (folder / name).is_file():
                return folder / name
    raise CheckpointError(f"{path}: no best.pt or last.pt in this folder or its 'checkpoints'; name a file")
