"""Decoded images that are kept, so that only the first epoch decodes: one copy a machine, for all processes.

A kept image is one that was read without a doubt, and is given only while its file has the size and the time
of change that it had when it was read; else the file is read as if nothing were kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import shutil
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.files import TEMPORARY, replacing
from maskrcnn.structures.samples import Image, Note

#: Raise it when the files' form or the decoding changes: those of another version are not read.
VERSION = 1
#: A file that changed less than so long ago may change again without another time: it is not kept yet.
_SETTLED_NS = 2 * 10**9
#: Seconds after which nobody writes at a temporary file any more.
_CUT_SHORT = 3600
#: Share of a disk that kept images leave free, for checkpoints and others.
LEFT_FREE = 0.1

_TYPES: tuple[type[np.generic], ...] = (np.uint8, np.float32)
#: Magic, type, height, width, channels, size and time of change of the image's file, checksum of the values.
_HEADER = struct.Struct("<8sIIIIqqQ")
_MAGIC = b"mrcnnimg"

#: An image and what is doubtful about its file.
Read = tuple[Image, tuple[Note, ...]]


class Stamp(NamedTuple):
    """Of a file: bytes, and time of change in ns."""

    size: int
    changed: int


def stamp_of(path: Path) -> Stamp | None:
    """None where there is no such file, or it changed just now."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    settled = time.time_ns() - found.st_mtime_ns >= _SETTLED_NS
    return Stamp(found.st_size, found.st_mtime_ns) if settled else None


class _Cache:
    """What both have in common."""

    def through(
        self, place: int, path: Path, page: int, size: tuple[int, int], read: Callable[[], Read]
    ) -> Read:
        """The image as it is kept, or as ``read`` gives it, which is then kept.

        Args:
            place: which image of the data set, from 0.
            path, page: where it is read from.
            size: its (height, width).

        Raises:
            what ``read`` raises.
        """
        stamp = stamp_of(path)  # before it is read, so that a change meanwhile is seen the next time
        if stamp is None:
            return read()
        kept = self._get(place, path, page, stamp, size)
        if kept is not None:
            return kept, ()
        image, notes = read()
        if not notes and image.shape[:2] == size and image.dtype.type in _TYPES:
            self._put(place, path, page, stamp, image)
        return image, notes

    def _get(self, place: int, path: Path, page: int, stamp: Stamp, size: tuple[int, int]) -> Image | None:
        raise NotImplementedError

    def _put(self, place: int, path: Path, page: int, stamp: Stamp, image: Image) -> None:
        raise NotImplementedError


class MemoryCache(_Cache):
    """Images in memory that the processes of a machine share; it is free again when the last of them ends.

    An image has one place, is written there once, by one process, and never again: where its file changes
    later, the file is read.

    Args:
        sizes: int [N, 2], (height, width) of the images.
        channels: of each.
        bytes_each: of a value, at most.
        handle: that of another process's cache of the same images, to share it.

    Raises:
        OSError: the memory cannot be had, or the other process's not be opened.
    """

    _EMPTY = 0

    def __init__(
        self,
        sizes: npt.NDArray[np.int32],
        channels: int,
        bytes_each: int,
        handle: tuple[int, int] | None = None,
    ) -> None:
        self._channels = channels
        self._ends = np.cumsum(memory_needed(sizes, channels * bytes_each))
        # Size and time of change of each file, and 1 + the place of its type in _TYPES.
        slots = np.dtype([("size", np.int64), ("changed", np.int64), ("state", np.int64)])
        total = len(sizes) * slots.itemsize + int(self._ends[-1])
        if handle is None:
            self._file = os.memfd_create("maskrcnn-images")
            os.ftruncate(self._file, total)
        else:
            self._file = os.open(f"/proc/{handle[0]}/fd/{handle[1]}", os.O_RDWR | os.O_CLOEXEC)
        self.handle = (os.getpid(), self._file)
        memory = mmap.mmap(self._file, total)
        self._slots = np.frombuffer(memory, slots, len(sizes))
        self._bytes = np.frombuffer(memory, np.uint8, offset=len(sizes) * slots.itemsize)

    def _get(self, place: int, path: Path, page: int, stamp: Stamp, size: tuple[int, int]) -> Image | None:
        slot = self._slots[place]
        if slot["state"] == self._EMPTY or (slot["size"], slot["changed"]) != stamp:
            return None
        values = self._values(place, _TYPES[int(slot["state"]) - 1])
        image: Image = values[: size[0] * size[1] * self._channels].reshape(*size, self._channels).copy()
        return image

    def _put(self, place: int, path: Path, page: int, stamp: Stamp, image: Image) -> None:
        import fcntl

        slot = self._slots[place]
        try:  # locks of this kind end with the process that holds them
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return  # another process is at it
        try:
            room = self._values(place, image.dtype.type)
            if slot["state"] == self._EMPTY and room.size >= image.size and image.shape[2] == self._channels:
                room[: image.size] = image.reshape(-1)
                slot["size"], slot["changed"] = stamp
                slot["state"] = 1 + _TYPES.index(image.dtype.type)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _values(self, place: int, kind: type[np.generic]) -> npt.NDArray[Any]:
        start = int(self._ends[place - 1]) if place else 0
        return self._bytes[start : self._ends[place]].view(kind)


def memory_needed(sizes: npt.NDArray[np.int32], bytes_a_pixel: int) -> npt.NDArray[np.int64]:
    """Bytes of each image [N], in whole words of eight."""
    words: npt.NDArray[np.int64] = -(-sizes.astype(np.int64).prod(1) * bytes_a_pixel // 8)
    return words * 8


class DiskCache(_Cache):
    """Images as files of plain values, one an image, for this run and others of the same images.

    Their folder says how they were decoded.  A file takes its name when it is whole, and in place of one that
    is out of date; a checksum tells one that a power cut left half written.  So no process waits for another.

    Args:
        folder: of all kept images.
        decoding: in what way the files were read.
    """

    def __init__(self, folder: Path, decoding: str) -> None:
        how = f"{VERSION} {cv2.__version__} {decoding}"
        self.folder = folder / hashlib.sha256(how.encode()).hexdigest()[:16]
        self._ended = False

    def file(self, path: Path, page: int) -> Path:
        """Where an image is kept."""
        name = os.fsencode(os.path.abspath(path)) + b"\0%d" % page  # noqa: PTH100 - it takes any name
        digits = hashlib.sha256(name).hexdigest()[:32]
        return self.folder / digits[:2] / digits[2:]

    def missing(self, places: Sequence[tuple[Path, int]]) -> npt.NDArray[np.bool_]:
        """Which images (file and page) are not kept yet; whether the others are up to date is not asked.

        What writes that were cut short left goes.
        """
        found = list(self.folder.glob("??/*"))
        for file in found:
            if TEMPORARY.fullmatch(file.name):
                with contextlib.suppress(OSError):
                    if time.time() - file.stat().st_mtime > _CUT_SHORT:
                        file.unlink()
        there = {f"{file.parent.name}{file.name}" for file in found}
        files = (self.file(*place) for place in places)
        return np.array([f"{file.parent.name}{file.name}" not in there for file in files], dtype=np.bool_)

    def _get(self, place: int, path: Path, page: int, stamp: Stamp, size: tuple[int, int]) -> Image | None:
        try:
            with self.file(path, page).open("rb") as file:
                magic, kind, height, width, channels, *found, total = _HEADER.unpack(file.read(_HEADER.size))
                if magic != _MAGIC or tuple(found) != stamp or (height, width) != size or kind >= len(_TYPES):
                    return None
                shape, values = (height, width, channels), np.dtype(_TYPES[kind])
                if os.fstat(file.fileno()).st_size != _HEADER.size + values.itemsize * math.prod(shape):
                    return None
                image = np.empty(shape, values)
                file.readinto(image.data.cast("B"))
                return image if _checksum(image) == total else None
        except (OSError, struct.error, ValueError, TypeError):
            return None

    def _put(self, place: int, path: Path, page: int, stamp: Stamp, image: Image) -> None:
        if self._ended:
            return
        image = np.ascontiguousarray(image)
        file = self.file(path, page)
        header = (_MAGIC, _TYPES.index(image.dtype.type), *image.shape, *stamp, _checksum(image))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if room(self.folder) < image.nbytes:
                self._ended = True
                return
            with replacing(file) as out:
                out.write(_HEADER.pack(*header))
                out.write(image.data.cast("B"))
        except OSError:  # full, or not ours to write: the images are read from their own files
            self._ended = True


def room(folder: Path) -> int:
    """Bytes that kept images may still take in a folder that exists.

    Raises:
        OSError: that cannot be known.
    """
    disk = shutil.disk_usage(folder)
    # What is kept from this user (for the superuser, or by a quota) is no part of the disk.
    return max(disk.free - int(LEFT_FREE * (disk.used + disk.free)), 0)


def _checksum(image: Image) -> int:
    values = image.reshape(-1).view(np.uint8)
    whole = values.size // 8 * 8
    words = values[:whole].view(np.uint64).sum(dtype=np.uint64)
    return (int(words) + int(values[whole:].sum(dtype=np.uint64))) % 2**64
