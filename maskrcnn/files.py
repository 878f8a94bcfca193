"""The one writer of files: whole or not at all, by temporary names that are known, with errors as sentences.

A file that is written anew appears under a temporary name beside its place and is renamed when it is whole,
so what was there before stays until then.  A file that grows (``log.txt``, ``metrics.jsonl``) is appended to
by whole records: one that does not fit is taken back, and kept in memory until there is room.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from maskrcnn.errors import OutputError

if TYPE_CHECKING:
    pass

#: Errors that mean that there is no room: disk, quota, largest size of a file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Our temporary files.  The name says nothing of the file's own, which may be as long as names may be.
TEMPORARY = re.compile(r"\.maskrcnn-[0-9a-f]{16}\.tmp(\.mp4)?")
#: Those of earlier versions, by their folder in a run.
_EARLIER = {
    "": ("config.yaml.partial", "run.json.partial", "results.json.part", "metrics.new"),
    "checkpoints": (".last.pt.new", ".best.pt.new", ".step_????????.pt.????????"),
}

#: Records of a growing file that are kept in memory while they cannot be written.
_PENDING = 10_000


def reason(error: BaseException, folder: Path) -> str:
    """Why writing failed, in words: ``the disk is full (...)``, or what the system says."""
    if isinstance(error, OSError) and error.errno in FULL:
        if error.errno == errno.EDQUOT:
            return "the disk quota is used up"
        if error.errno == errno.EFBIG:
            return "it would be larger than files may be here (ulimit -f, or the file system's limit)"
        free = free_bytes(folder)
        return "the disk is full" + ("" if free is None else f" ({free / 2**20:.1f} MiB free)")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def unwritten(path: Path, error: OSError) -> OutputError:
    """The sentence for ``path``, which could not be written."""
    advice = "make room there" if error.errno in FULL else "check the folder and its permissions"
    return OutputError(f"{path}: could not be written: {reason(error, path.parent)}; {advice}")


def free_bytes(folder: Path) -> int | None:
    """Bytes that a user may still write in ``folder``'s file system; None where that cannot be known."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def temporary_beside(path: Path) -> Path:
    """A new temporary name in the folder of ``path``."""
    return path.with_name(f".maskrcnn-{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """The same, while the body runs; what has that name at the end goes."""
    temporary = temporary_beside(path)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def building_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which gets the name ``path`` when the body ends well, and else goes.

    Args:
        path: nothing is there, or an empty folder.

    Raises:
        OutputError: it cannot be made or renamed; nothing is left behind.
    """
    temporary = temporary_beside(path)
    try:
        try:
            temporary.mkdir(parents=True)
        except OSError as error:
            raise unwritten(path, error) from None
        yield temporary
        try:
            if path.is_dir():
                path.rmdir()
            temporary.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            raise unwritten(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the body ends well, and else goes.

    Args:
        path: its folder exists.
        sync: have the disk hold file and name before going on, so that a power cut costs neither.

    Raises:
        OSError: it cannot be written; ``path`` is then as it was and nothing is left behind.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # /dev/null, a pipe: nothing to replace
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve() if path.is_symlink() else path
    with _temporary(path) as temporary:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            sync_folder(path.parent)


def write_bytes(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all; its folder is made.

    Raises:
        OutputError: it cannot be written; ``path`` is then as it was and nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync=sync) as file:
            file.write(data)
    except OSError as error:
        raise unwritten(path, error) from None


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """UTF-8 text, as :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"), sync=sync)


def copy_file(source: Path, path: Path) -> None:
    """A copy of a file, as :func:`write_bytes`.

    Raises:
        OutputError: it cannot be read or written; ``path`` is then as it was.
    """
    try:
        taken = source.open("rb")
    except OSError as error:
        raise OutputError(f"{source}: cannot be copied: {reason(error, source.parent)}") from None
    with taken:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                shutil.copyfileobj(taken, file)
        except OSError as error:
            raise unwritten(path, error) from None


def write_json(path: Path, content: Any, *, indent: int | None = None, sync: bool = False) -> None:
    """JSON, as :func:`write_bytes`."""
    write_text(path, json.dumps(content, indent=indent) + "\n", sync=sync)


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """What ``torch.save`` makes of ``content``, synced; the folder exists.

    Raises:
        OSError: it cannot be written; ``path`` is then as it was and nothing is left behind.
    """
    import torch

    with replacing(path, sync=True) as file:
        told = _Told(file)
        try:
            torch.save(content, cast(BinaryIO, told))
        except RuntimeError:
            if told.error is not None:
                raise told.error from None
            raise


class _Told:
    """A file that remembers why a write failed: torch's zip writer says ``unexpected pos`` instead."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def create(path: Path, text: str) -> bool:
    """Make a file with its content at once, as no other process then can; False where there is one.

    Raises:
        OSError: it cannot be written.
    """
    with _temporary(path) as temporary, contextlib.suppress(FileExistsError):
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        return True
    return False


def take_place(part: Path, path: Path) -> None:
    """A file that grew beside ``path`` and is whole now gets that name; the disk holds both first.

    Raises:
        OSError: it cannot be renamed; it then stays what it was.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def name_also(path: Path, name: str) -> None:
    """Give a file a second name in its folder, in place of what had it; a copy where there are no links.

    Raises:
        OSError: it cannot be written; the name then belongs to what had it.
    """
    with _temporary(path) as temporary:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(path.with_name(name))


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` for what is only needed until ``path`` is written; gone at the end.

    Raises:
        OSError: it cannot be made.
    """
    with _temporary(path) as temporary, temporary.open("xb") as file:
        yield file


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[int | None]:
    """Hold an exclusive lock on an empty file while the body runs, among processes of this machine.

    Yields:
        its file descriptor, which processes can inherit; None where there are no such locks (Windows).

    Raises:
        BlockingIOError: another process holds it, and we do not ``wait``.
        OSError: the file cannot be made.
    """
    with path.open("ab") as file:
        if sys.platform == "win32":
            yield None
            return
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file.fileno()


def sync_folder(folder: Path) -> None:
    """Have the disk hold the folder's names, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_temporaries(run: Path) -> list[Path]:
    """Remove what killed writes left in a run's folder: our own names alone, no links, nothing deeper.

    Returns:
        what was removed.  A file that cannot be removed stays.
    """
    found = [
        path for folder, names in _EARLIER.items() for name in names for path in (run / folder).glob(name)
    ]
    return [*clear_folders([run, run / "checkpoints", run / "pictures"]), *_removed(found)]


def clear_folders(folders: Iterable[Path]) -> list[Path]:
    """The same in these folders, of today's names."""
    return _removed(
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if TEMPORARY.fullmatch(path.name)
    )


def _removed(paths: Iterable[Path]) -> list[Path]:
    removed = []
    for path in list(paths):
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


class Appender:
    """A file that grows by whole records.

    Records that cannot be written wait in memory (the newest 10,000) and go out with the next one that can.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: made with the first record.
        """
        self.path = path
        self._waiting: deque[bytes] = deque(maxlen=_PENDING)
        self._handle: int | None = None

    def append(self, record: bytes) -> None:
        """Add a record and hand it to the system at once.

        Raises:
            OSError: it, or one before it, could not be written, or the file was removed; no part of it is
                then in the file.
        """
        self._waiting.append(record)
        self.flush()

    def lend(self, write: Callable[[int], object]) -> None:
        """Let ``write`` add to the file by its descriptor; a record was written before.

        Raises:
            OSError: as :meth:`append`.
        """
        if self._handle is not None:
            write(self._handle)

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            OSError: as :meth:`append`.
        """
        while self._waiting:
            self._write(self._waiting[0])
            self._waiting.popleft()

    def _write(self, record: bytes) -> None:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        handle = self._handle
        state = os.fstat(handle)
        if state.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "it was removed while it was written", str(self.path))
        left = memoryview(record)
        try:
            while left:
                left = left[os.write(handle, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, state.st_size)
            raise

    def close(self) -> None:
        """Close the file.  What is still waiting is lost.

        Raises:
            OSError: as :meth:`append`, or the file system reports only now that something was not written.
        """
        try:
            self.flush()
        finally:
            handle, self._handle = self._handle, None
            if handle is not None:
                os.close(handle)
