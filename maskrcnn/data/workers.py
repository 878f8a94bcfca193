"""Loader workers: started deaf to signals that are meant for the run, ended with it whatever their state.

One that dies, is stopped or stands still is told with the image that it was at, and others take its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, get_worker_info

from maskrcnn.errors import UserError

#: What a terminal, systemd or Slurm sends to all processes of a run; the parent alone acts on it.
_MEANT_FOR_THE_RUN = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
#: Seconds that workers get to end by themselves, and to be gone when killed.
_GRACE, _GONE = 2.0, 3.0
#: Seconds between two looks at whether the wait for a batch should be given up.
POLL = 1
#: After so many fruitless looks of a run that was asked to stop, it is.
_PATIENCE = 3
#: Looks after which a worker that was stopped is given up, while its batch is waited for.
STOPPED_LOOKS = 10
#: Seconds after which one is that stands at an image, or a batch, all the while: far above what slow drives
#: take.
STANDSTILL = 600.0
#: Tries to go on with new workers without a batch in between.
_TRIES = 3

# prctl(2)
_PR_SET_PDEATHSIG = 1


class StalledError(Exception):
    """The run was asked to stop, and no batch comes: a worker was stopped, or hangs."""


class LostWorkerError(UserError):
    """A worker was killed, or ended by itself; the message says which and what to do."""


class WorkerStart:
    """What a worker does first; made in the parent."""

    def __init__(self) -> None:
        # The kernel's signal comes when the thread ends that started the worker, so not from a passing one.
        self._tied = sys.platform == "linux" and threading.current_thread() is threading.main_thread()

    def __call__(self, number: int) -> None:
        """Ignore what is meant for the run, end with the parent, and use one core."""
        for name in _MEANT_FOR_THE_RUN:
            signal.signal(name, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _MEANT_FOR_THE_RUN)
        if self._tied:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            parent = multiprocessing.parent_process()
            if parent is not None and os.getppid() != parent.pid:  # it ended before the call
                os._exit(0)
        # More threads than cores only fight each other.
        cv2.setNumThreads(0)
        torch.set_num_threads(1)


class Places:
    """The image that each worker is at, in memory that they share with the process that reads."""

    #: It is at none: it waits to be asked for a batch.
    NONE = -1

    def __init__(self, workers: int) -> None:
        self._batches = 0
        self._images = multiprocessing.RawArray("q", [-1] * workers)
        self._pids = multiprocessing.RawArray("q", [-1] * workers)

    def at(self, image: int) -> None:
        """This worker begins an image, or what is below 0.  Nothing in the reading process."""
        worker = get_worker_info()
        if worker is not None and worker.id < len(self._images):
            self._images[worker.id], self._pids[worker.id] = image, os.getpid()

    def at_batch(self) -> None:
        """This worker puts a batch together: below :attr:`NONE`, a number that no batch had before."""
        self._batches += 1
        self.at(self.NONE - self._batches)

    def of(self, pid: int | None) -> int:
        """The image of a worker by its process, or what is below 0."""
        known = list(self._pids)
        return int(self._images[known.index(pid)]) if pid in known else self.NONE


@dataclass(frozen=True)
class Mending:
    """How a loader goes on without a worker that is lost.

    again: the loader of the items behind so many.
    tell: takes a sentence.
    name: that of an image by its place in the data set.
    places: where its workers are.
    """

    again: Callable[[int], DataLoader[Any]]
    tell: Callable[[str], None]
    name: Callable[[int], str]
    places: Places = field(default_factory=lambda: Places(0))


def iterate(
    loader: DataLoader[Any], stopping: Callable[[], bool], mending: Mending | None = None
) -> Generator[Any, None, None]:
    """The items of a loader with or without workers; its workers are gone when this ends.

    ``loader`` has workers and a timeout of :data:`POLL`, or no workers.

    Args:
        stopping: whether the run was asked to stop.
        mending: how to go on without a worker that is lost; None: that is an error.

    Raises:
        StalledError: it was, and no item came for about three seconds.
        LostWorkerError: a worker ended, was killed or given up, and new ones did not help.
    """
    done = tries = 0
    while True:
        try:
            for item in _iterate(loader, stopping, mending):
                done, tries = done + 1, 0
                yield item
            return
        except LostWorkerError as error:
            tries += 1
            if mending is None or tries > _TRIES or stopping():
                raise
            mending.tell(f"{error}. Its batch is made anew by new processes, and the run goes on")
            loader = mending.again(done)


def _iterate(
    loader: DataLoader[Any], stopping: Callable[[], bool], mending: Mending | None
) -> Generator[Any, None, None]:
    before = set(multiprocessing.active_children())
    with _blocked():
        source = [iter(loader)]
    workers = [p for p in multiprocessing.active_children() if p not in before]
    places = Places(0) if mending is None else mending.places
    with _children_unwatched(), _Watch(workers, stopping, places) as watch:  # torch's handler is there by now
        try:
            yield from _items(source, workers, watch, mending)
        finally:
            _end(source, workers)


class _Watch:
    """Kills the workers of a run that was asked to stop and waits for a batch all the same, and one that was
    stopped, or stands still, while its batch is waited for.

    A thread, since the wait itself cannot be left: where a stopped worker has announced a batch, torch asks
    it for the memory's handle without a time limit.  Its death ends the wait.
    """

    def __init__(self, workers: Sequence[BaseProcess], stopping: Callable[[], bool], places: Places) -> None:
        self._workers = workers
        self._places = places
        self._stopping = stopping
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        #: Whether the reader is waiting for a batch, and how many it has got.
        self.waiting, self.got = False, 0
        #: Whether the wait was ended.
        self.given_up = False
        #: Why a worker was given up, by its place among them.
        self.lost: dict[int, str] = {}

    def __enter__(self) -> _Watch:
        if self._workers:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def _look(self) -> None:
        looks, none = 0, Places.NONE
        stopped, stood = [0] * len(self._workers), [(none, 0.0)] * len(self._workers)
        silent = (-1, 0.0)  # how many batches had come when all stood still with nothing to do, since when
        while not self._end.wait(POLL):
            now, idle = time.monotonic(), self.waiting
            for number, worker in enumerate(self._workers):
                stopped[number] = stopped[number] + 1 if self.waiting and _is_stopped(worker.pid) else 0
                place = self._places.of(worker.pid)
                idle = idle and place == none
                if place == none or place != stood[number][0] or not self.waiting:
                    stood[number] = place, now
                if number in self.lost:
                    continue
                if stopped[number] >= STOPPED_LOOKS:
                    self._give_up(number, "was stopped by a signal (SIGSTOP, a debugger, or a frozen group)")
                elif now - stood[number][1] >= STANDSTILL:
                    self._give_up(number, f"stood still for {STANDSTILL:.0f} s")
            if not idle or silent[0] != self.got:
                silent = self.got, now
            if now - silent[1] >= STANDSTILL and not self.lost:
                for number in range(
                    len(self._workers)
                ):  # one of them holds a batch back; it is not known which
                    self._give_up(number, f"sent nothing for {STANDSTILL:.0f} s")
            looks = looks + 1 if self.waiting and self._stopping() else 0
            if looks >= _PATIENCE:
                self.given_up = True
                for worker in self._workers:
                    worker.kill()
                return

    def _give_up(self, number: int, why: str) -> None:
        self.lost[number] = why
        self._workers[number].kill()


def _is_stopped(pid: int | None) -> bool:
    """Whether the system says so, where it can."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return text[text.rindex(")") + 2] in "Tt"


def _items(
    source: list[Any], workers: Sequence[BaseProcess], watch: _Watch, mending: Mending | None
) -> Iterator[Any]:
    while True:
        watch.waiting = True
        try:
            item = next(source[0])
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if watch.given_up:
                raise StalledError from None
            late = str(error).startswith("DataLoader timed out")
            if workers and not late:
                wait([worker.sentinel for worker in workers], timeout=POLL)
            if watch.lost or any(worker.exitcode for worker in workers):
                raise LostWorkerError(_lost(workers, watch.lost, mending)) from None
            if not late:
                raise
            continue
        watch.waiting, watch.got = False, watch.got + 1
        yield item


#: What mostly ends a worker so, and what helps.
_LIKELY = {
    "SIGKILL": "mostly the system short of memory: lower data.workers (0: the training process loads), or"
    " give the run more",
    "SIGBUS": "mostly a full /dev/shm{room}: make it larger (docker run --shm-size 8g), or lower"
    " data.workers",
    "SIGSEGV": "a fault of the code that reads or decodes images, if it comes again at the same image: take"
    " that one out",
}


def _lost(workers: Sequence[BaseProcess], given_up: dict[int, str], mending: Mending | None) -> str:
    """The sentence for workers that are gone."""
    names, likely = [], dict[str, None]()
    for number, worker in enumerate(workers):
        code = worker.exitcode
        if not code and number not in given_up:
            continue
        how, signalled = f"ended with status {code}", ""
        if number in given_up:
            how = given_up[number]
        elif code and code < 0:
            signalled = signal.Signals(-code).name
            how = f"was ended by {signalled}"
        if signalled in _LIKELY:
            likely[_LIKELY[signalled].format(room=_shared_room())] = None
        place = Places.NONE if mending is None else mending.places.of(worker.pid)
        at = "" if place >= Places.NONE else " as it put a batch together"
        if place >= 0 and mending is not None:
            at = f" at {mending.name(place)}"
        names.append(f"process {worker.pid} {how}{at}")
    why = f"; {'; '.join(likely)}" if likely else ""
    return f"a process that loads images is gone ({'; '.join(names[:3])}){why}"


def _shared_room() -> str:
    """How much of the shared memory is free, where that can be asked for."""
    try:
        found = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return ""
    return f" ({found.f_bavail * found.f_frsize >> 20} MiB free)"


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Hold signals meant for the run back while workers are forked, until they can ignore them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _MEANT_FOR_THE_RUN)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _end(source: list[Any], workers: list[BaseProcess]) -> None:
    """Drop the iterator, which ends its workers; kill those that do not end.

    In a thread, since torch waits for each worker, and a killed one may have held a lock.
    """
    if not workers:
        source.clear()
        return
    dropping = threading.Thread(target=source.clear, daemon=True)
    dropping.start()
    dropping.join(_GRACE)
    left = [worker for worker in workers if worker.is_alive()]
    for worker in left:
        worker.kill()
    for worker in left:
        worker.join(_GONE)
    if left:
        dropping.join(_GONE)


@contextlib.contextmanager
def _children_unwatched() -> Iterator[None]:
    """Turn torch's handler off, which raises in the middle of anything; each look tells a worker's end."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    watcher: Callable[[int, FrameType | None], Any] | int | None = signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if watcher is None else watcher)
