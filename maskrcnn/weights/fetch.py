"""A published file to this machine: checked, once for all processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from maskrcnn.errors import CheckpointError
from maskrcnn.files import locked, take_place, unwritten, write_json
from maskrcnn.weights.download import MIB, PATIENCE, Download, Patience, Tell, by_hand, size_problem
from maskrcnn.weights.published import Published


@dataclass(frozen=True)
class Facts:
    """Of a file on this machine: its digests, its size in bytes and the time of its last change."""

    sha256: str
    md5: str
    size: int
    changed: int


def fetch(name: str, entry: Published, path: Path, tell: Tell, patience: Patience = PATIENCE) -> Facts:
    """Have the file of ``entry`` at ``path``, whole and checked; it is fetched unless it is there.

    Args:
        tell: takes lines: progress, and that we wait for another process.

    Raises:
        CheckpointError: it cannot be had, or is not the file that the publisher states; each sentence says
            the address, and where to put the file by hand.
        OutputError: it cannot be written; what has come so far stays, and the next call goes on with it.
    """
    with alone(path.with_name("lock"), f"another process that fetches {name}", tell):
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            download = Download(name, entry, path, part, tell, patience)
            joined = download.run()
            if joined and (problem := _problem(entry, digests(part))):
                tell(f"{name}: the parts that were joined do not fit ({problem}); beginning again")
                part.unlink()
                download.run()
            _take(name, entry, part, path)
        return _checked(name, entry, path, "was put there by hand, or damaged")


@contextlib.contextmanager
def alone(path: Path, whom: str, tell: Tell) -> Iterator[None]:
    """Hold the lock ``path``, whose folder is made; ``whom`` says what we wait for, if need be.

    Raises:
        OutputError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(path, wait=False))
            except BlockingIOError:
                tell(f"waiting for {whom}")
                stack.enter_context(locked(path, wait=True))
        except OSError as error:
            raise unwritten(path, error) from None
        yield


def facts_of(path: Path) -> Facts | None:
    """What was found of a file when it was checked; None where it is not there, or another since."""
    try:
        known = Facts(**json.loads(_beside(path).read_text(encoding="utf-8")))
        there = path.stat()
    except (OSError, ValueError, TypeError):
        return None
    return known if (known.size, known.changed) == (there.st_size, there.st_mtime_ns) else None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _take(name: str, entry: Published, part: Path, path: Path) -> None:
    """The finished part becomes the file, where its digest is right."""
    problem = _problem(entry, digests(part))
    if problem:
        part.unlink()
        raise CheckpointError(
            f"{name}: what {entry.url} sent is not the file that its publisher states ({problem}): damaged or"
            f" exchanged on the way. It was removed; fetch it again, or {by_hand(entry, path)}"
        )
    try:
        take_place(part, path)
    except OSError as error:
        raise unwritten(path, error) from None


def _checked(name: str, entry: Published, path: Path, why: str) -> Facts:
    """The facts of the file, computed where they are not known yet.

    Raises:
        CheckpointError: it is another than the publisher states, or, where nothing is stated, than the first
            that was fetched.
    """
    known = facts_of(path)
    if known is None:
        if not path.is_file():
            raise CheckpointError(f"{path}: is no file; remove it, or {by_hand(entry, path)}")
        known = digests(path)
        problem = _problem(entry, known) or _changed(path, known)
        if problem:
            raise CheckpointError(
                f"{path}: is not {name} as its publisher states it ({problem}); it {why}. Remove it and fetch"
                f" it again, or {by_hand(entry, path)}"
            )
        write_json(_beside(path), asdict(known))
    return known


def _changed(path: Path, now: Facts) -> str:
    """How the file differs from the one that was here first, where the publisher states no digest."""
    try:
        first = Facts(**json.loads(_beside(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ""
    if first.sha256 == now.sha256:
        return ""
    return (
        f"SHA-256 {now.sha256[:16]}..., the first that was fetched had {first.sha256[:16]}...; where the new"
        f" one is right, remove {_beside(path)}"
    )


def digests(path: Path) -> Facts:
    """Both digests of a file, reading it once."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(MIB):
            sha256.update(piece)
            md5.update(piece)
    there = path.stat()
    return Facts(sha256.hexdigest(), md5.hexdigest(), there.st_size, there.st_mtime_ns)


def _problem(entry: Published, facts: Facts) -> str:
    """How a file differs from what is stated, in words; empty where it does not."""
    for kind, stated, found in (("SHA-256", entry.sha256, facts.sha256), ("MD5", entry.md5, facts.md5)):
        if stated is not None and not found.startswith(stated):
            return f"its {kind} begins with {found[: len(stated)]}, stated is {stated}"
    return size_problem(entry, facts.size)
