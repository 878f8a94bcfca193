"""Loader workers: started deaf to signals that are meant for the run, ended with it whatever their state."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

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


def iterate(loader: DataLoader[Any], stopping: Callable[[], bool]) -> Generator[Any, None, None]:
    """The items of a loader with or without workers; its workers are gone when this ends.

    ``loader`` has workers and a timeout of :data:`POLL`, or no workers.

    Args:
        stopping: whether the run was asked to stop.

    Raises:
        StalledError: it was, and no item came for about three seconds.
        LostWorkerError: a worker ended or was killed.
    """
    before = set(multiprocessing.active_children())
    with _blocked():
        source = [iter(loader)]
    workers = [p for p in multiprocessing.active_children() if p not in before]
    with _children_unwatched(), _Watch(workers, stopping) as watch:  # torch's handler is there by now
        try:
            yield from _items(source, workers, watch)
        finally:
            _end(source, workers)


class _Watch:
    """Kills the workers of a run that was asked to stop and waits for a batch all the same.

    A thread, since the wait itself cannot be left: where a stopped worker has announced a batch, torch asks
    it for the memory's handle without a time limit.  Its death ends the wait.
    """

    def __init__(self, workers: Sequence[BaseProcess], stopping: Callable[[], bool]) -> None:
        self._workers = workers
        self._stopping = stopping
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        #: Whether the reader is waiting for a batch.
        self.waiting = False
        #: Whether the wait was ended.
        self.given_up = False

    def __enter__(self) -> _Watch:
        if self._workers:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def _look(self) -> None:
        looks = 0
        while not self._end.wait(POLL):
            looks = looks + 1 if self.waiting and self._stopping() else 0
            if looks >= _PATIENCE:
                self.given_up = True
                for worker in self._workers:
                    worker.kill()
                return


def _items(source: list[Any], workers: Sequence[BaseProcess], watch: _Watch) -> Iterator[Any]:
    while True:
        watch.waiting = True
        try:
            item = next(source[0])
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if watch.given_up:
                raise StalledError from None
            if str(error).startswith("DataLoader timed out"):
                continue
            if workers:
                wait([worker.sentinel for worker in workers], timeout=POLL)
            if any(worker.exitcode for worker in workers):
                raise LostWorkerError(_lost(workers)) from None
            raise
        watch.waiting = False
        yield item


def _lost(workers: Sequence[BaseProcess]) -> str:
    """The sentence for workers that are gone."""
    names = []
    for worker in workers:
        code = worker.exitcode
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            names.append(f"process {worker.pid} {how}")
    return (
        f"a process that loads images is gone ({'; '.join(names[:3])}): SIGKILL is mostly the system short"
        " of memory, SIGBUS a full /dev/shm; lower data.workers (0: the training process loads), or give them"
        " more"
    )


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
