"""Where the image files of a data set are, which of them are not there, and opening one."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

#: From so many files of a folder on, its listing is read once instead of asking for each file.
_LISTING_PAYS = 64


#: What a name can stand for that is no file.
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def no_file(path: Path) -> str:
    """What is there in place of a file: ``a folder``, ``a named pipe`` ...; empty for a file, or nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if path.is_symlink() else ""
    except (OSError, ValueError):
        return ""
    if stat.S_ISREG(mode):
        return ""
    return next((name for matches, name in _KINDS if matches(mode)), "something else")


#: What a drive over a network says while it does not answer, or has come back as another.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "ENOLINK", "EREMOTEIO", "ECOMM"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "ENOTCONN"),
        *("EHOSTDOWN", "EHOSTUNREACH", "EPROTO", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)
#: Seconds before each further try.
WAITS = (0.5, 2.0, 8.0)


def read_file(path: Path) -> bytes:
    """The bytes of an image file; where a drive does not answer it is asked again, ever later.

    Raises:
        OSError, ValueError: as :func:`open_image`, or the drive did not answer in about ten seconds.
    """
    for wait in WAITS:
        try:
            return _read(path)
        except OSError as error:
            if not _may_pass(path, error):
                raise
        time.sleep(wait)
    return _read(path)


def _read(path: Path) -> bytes:
    with open_image(path) as file:
        return file.read()


def _may_pass(path: Path, error: OSError) -> bool:
    if error.errno == errno.ENOENT:  # the whole folder: a drive that is mounted anew
        return not os.path.isdir(path.parent)  # noqa: PTH112 - it takes any name
    return error.errno in _PASSING


def open_image(path: Path) -> BinaryIO:
    """A file, to read its bytes.

    Raises:
        OSError: it cannot be opened, or is none: a named pipe would be waited for without end, and a device
            has no end.
        ValueError: no file can have this name.
    """
    if kind := no_file(path):
        raise OSError(errno.EINVAL, f"it is {kind} and no image file", os.fspath(path))
    return path.open("rb")


def image_path(folder: Path, name: str) -> Path:
    """The file that a json calls ``name``, relative to ``folder``.

    A name that was written on Windows, ``train\\\\a.png``, means ``train/a.png`` where there is no file of
    the very name and the other one lies inside the folder.
    """
    path = folder / name
    if "\\" not in name or os.sep == "\\" or os.path.exists(path):  # noqa: PTH110 - it takes any name
        return path
    windows = PureWindowsPath(name)
    if windows.anchor or ".." in windows.parts:
        return path
    meant = folder.joinpath(*windows.parts)
    return meant if os.path.exists(meant) else path  # noqa: PTH110


def split_page(name: str) -> tuple[str, int]:
    """``stack.tif[2]``, ImageMagick's name of a page (from 0), as ``stack.tif`` and 2; of others 0."""
    found = re.fullmatch(r"(.+)\[(\d{1,6})\]", name)
    return (found[1], int(found[2])) if found else (name, 0)


def missing_files(paths: Sequence[Path]) -> list[int]:
    """Places in ``paths`` at which there is no file.

    Folders are listed once, so that 118,000 files take a second or two, over a network as well; a file that
    is not in the listing (of another case on a file system that ignores it) is asked for.
    """
    folders: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        folders.setdefault(os.fspath(path.parent), []).append(place)
    missing: list[int] = []
    for folder, places in folders.items():
        listed = _files_in(folder) if len(places) >= _LISTING_PAYS else frozenset()
        others = (p for p in places if paths[p].name not in listed)
        missing += [p for p in others if not os.path.isfile(paths[p])]  # noqa: PTH113 - it takes any name
    return sorted(missing)


def longest_gap(missing: Iterable[int], count: int) -> int:
    """The longest run among ``missing`` places of ``count``; behind the last comes the first."""
    gone = set(missing)
    if len(gone) >= count:
        return count
    best = run = 0
    for place in range(2 * count):
        run = run + 1 if place % count in gone else 0
        best = max(best, run)
    return best


def _files_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return frozenset()


def file_size(path: Path) -> int:
    """Bytes; -1 where there is no such file."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1
