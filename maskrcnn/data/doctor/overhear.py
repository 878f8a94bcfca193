"""What the JPEG decoder says of an image that it decodes all the same.

libjpeg goes on over damaged data, gives gray or shifted parts, and writes one line to the process's standard
error; neither OpenCV nor torchvision nor Pillow hands that on.  So standard error is led into a file while an
image is decoded.  Whatever else was written meanwhile (by another thread) is passed on.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: How libjpeg's messages about image data begin (jerror.h, JWRN_*).
_DAMAGE = ("Corrupt JPEG data:", "Premature end of JPEG file", "Inconsistent progression sequence")
#: A colour profile that is damaged changes no pixel here.
_HARMLESS = "bad ICC"
_STANDARD_ERROR = 2

_lock = threading.Lock()
#: The file of this process: a forked one needs its own, since it would share the place where is written.
_own: tuple[int, int] | None = None


@contextmanager
def overhear() -> Iterator[list[str]]:
    """A list that holds, once the block is left, what libjpeg said of damaged data inside it.

    A few microseconds.  Where standard error is closed, or no temporary file can be made, nothing is heard.
    """
    heard: list[str] = []
    with _lock:
        file = _open()
        try:
            kept = os.dup(_STANDARD_ERROR) if file is not None else None
        except OSError:
            kept = None
        if file is None or kept is None:
            yield heard
            return
        try:
            os.dup2(file, _STANDARD_ERROR)
            yield heard
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)
            if os.lseek(file, 0, os.SEEK_CUR):
                heard += _take(file)


def _open() -> int | None:
    global _own
    if _own is None or _own[0] != os.getpid():
        try:
            with tempfile.TemporaryFile() as file:
                _own = os.getpid(), os.dup(file.fileno())
        except OSError:
            return None
    return _own[1]


def _take(file: int) -> list[str]:
    """The decoder's lines; the rest goes where it was meant to go."""
    size = os.lseek(file, 0, os.SEEK_CUR)
    os.lseek(file, 0, os.SEEK_SET)
    text = os.read(file, size)
    os.lseek(file, 0, os.SEEK_SET)
    os.ftruncate(file, 0)
    found, others = [], []
    for line in text.splitlines(keepends=True):
        words = line.decode("utf-8", "replace").strip()
        if not words.startswith(_DAMAGE):
            others.append(line)
        elif _HARMLESS not in words:
            found.append(words)
    if others:
        os.write(_STANDARD_ERROR, b"".join(others))
    return found


def _after_fork() -> None:
    """A lock that another thread held while the process forked would never be free again."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
