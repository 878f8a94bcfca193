"""The checkpoints of a run: which stay, which are the last and the best, and which can be read."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrcnn.engine.checkpoint import Checkpoint, WriteError, load, save
from maskrcnn.errors import CheckpointError, few
from maskrcnn.files import free_bytes, name_also, reason

#: What makes a folder a package for inference (`maskrcnn package`): its list of files, and its checkpoint.
PACKAGE, PACKED = "package.json", "model.pt"


@dataclass
class CheckpointFolder:
    """A run's checkpoints: ``step_00000300.pt`` ..., with ``last.pt`` and ``best.pt`` naming two of them.

    The names are hard links where the file system has them, so they cost no space; else copies.

    folder: made on the first save.
    keep: how many of the newest steps stay, >= 1; two, so that one can be lost.
    """

    folder: Path
    keep: int = 2

    def __post_init__(self) -> None:
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
        self._size = max(self._size, _bytes(checkpoint.states))
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
        for step, old in self.steps()[self.keep :]:
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
    """A checkpoint file for ``path``: itself, for a run's folder its best, else its last, or a package's.

    Raises:
        CheckpointError: there is none; a package is not whole.
    """
    if not path.is_dir():
        return path
    if is_package(path):
        _check_whole(path)
        return path / PACKED
    for name in ("best.pt", "last.pt"):
        for folder in (path / "checkpoints", path):
            if (folder / name).is_file():
                return folder / name
    raise CheckpointError(f"{path}: no best.pt or last.pt in this folder or its 'checkpoints'; name a file")


def is_package(path: Path) -> bool:
    """Whether a folder is what `maskrcnn package` writes."""
    return (path / PACKAGE).is_file()


def _check_whole(path: Path) -> None:
    """All files are there, and the model whole; words and scores may have been mended by hand."""
    try:
        files = json.loads((path / PACKAGE).read_text(encoding="utf-8"))["files"]
        wrong = [name for name in files if not (path / name).is_file()]
        if not wrong and (path / PACKED).stat().st_size != files[PACKED]["bytes"]:
            wrong = [PACKED]
    except (OSError, ValueError, LookupError, TypeError):
        wrong = [PACKAGE]
    if wrong:
        raise CheckpointError(
            f"{path}: this package is not whole ({few(wrong)}: missing or cut short); copy the folder again,"
            " or make it anew with maskrcnn package"
        )
