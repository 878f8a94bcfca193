"""Whether what a run will write can be written: folders, and room on their disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from maskrcnn.errors import UserError
from maskrcnn.run.preflight import CHECKS, Start

#: Optimizer states a parameter where the optimizer does not say: two moments, as Adam.
_STATES = 2
#: Of what is not a tensor in a checkpoint: recipe, names, the format's own.
_OVERHEAD = 64 * 1024


@CHECKS.register("places")
def check_places(start: Start) -> Iterator[UserError]:
    """All that will be written can be written; see :func:`check_file` and :func:`check_folder`."""
    for check, places in ((check_file, start.files), (check_folder, start.folders)):
        for option, place in places.items():
            try:
                check(place, option)
            except UserError as error:
                yield error


@CHECKS.register("disk")
def tell_room(start: Start) -> None:
    """Say what a checkpoint of a training takes; see :func:`check_room`."""
    assert start.model is not None and start.optimizer is not None
    size = checkpoint_bytes(start.model, start.optimizer, average=start.recipe.solver.ema is not None)
    for folder in start.folders.values():
        free = in_words(check_room(folder, size, best=start.recipe.data.val is not None))
        told = f"a checkpoint takes about {in_words(size)}, and {free} are free for the run folder"
        start.console.line(told)


def checkpoint_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, *, average: bool = False) -> int:
    """The size of a checkpoint of both, once the optimizer has its states, and of an average."""
    held = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    trained: dict[int, int] = {
        id(p): p.numel() * p.element_size() for g in optimizer.param_groups for p in g["params"]
    }
    return int(held) + (_states(optimizer) + average) * sum(trained.values()) + _OVERHEAD


def check_room(folder: Path, size: int, *, best: bool) -> int:
    """The bytes that are free for ``folder``, which may not exist yet.

    Two checkpoints must fit, an old one and the one that replaces it, and the best where there is an
    evaluation; checkpoints that are in the folder already count as room.

    Args:
        size: of one checkpoint, in bytes.

    Raises:
        UserError: there is less.
    """
    need = (3 if best else 2) * size
    kept = {f.stat().st_ino: f.stat().st_size for f in (folder / "checkpoints").glob("*.pt")}
    free = shutil.disk_usage(_existing(folder)).free
    if free + sum(kept.values()) < need:
        what = "two of them and the best" if best else "two of them"
        raise UserError(
            f"{folder}: a checkpoint of this run takes about {in_words(size)}, {what} {in_words(need)}, and"
            f" {in_words(free)} are free there; make room, or choose another folder with --output"
        )
    return free


def check_folder(folder: Path, option: str = "--output") -> None:
    """``folder`` can be made, where it is not there yet, and files written into it; leaves nothing behind.

    Args:
        option: what chooses another folder, for the message.

    Raises:
        UserError: it cannot.
    """
    if why := _why_not(folder):
        raise UserError(f"{folder}: cannot be written: {why}; choose another place with {option}")


def check_file(path: Path, option: str) -> None:
    """``path`` can be written, or written anew; see :func:`check_folder`.

    Raises:
        UserError: it cannot.
    """
    if why := "it is a folder" if path.is_dir() else _why_not(path.parent):
        raise UserError(f"{path}: cannot be written: {why}; choose another place with {option}")


def _why_not(folder: Path) -> str:
    place = _existing(folder)
    if not place.is_dir():
        return f"{place} is a file and no folder"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        return f"{error.strerror or error} ({place})"
    return ""


def in_words(size: int) -> str:
    """``1.2 GB`` of a number of bytes."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest above it that exists."""
    place = folder.absolute()
    while not _exists(place) and place != place.parent:
        place = place.parent
    return place


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a part of it may not be searched
        return True


def _states(optimizer: torch.optim.Optimizer) -> int:
    group: dict[str, object] = optimizer.param_groups[0] if optimizer.param_groups else {}
    if "betas" in group:
        return 3 if group.get("amsgrad") else 2
    if "momentum" in group:
        return 1 if group["momentum"] else 0
    return _STATES
