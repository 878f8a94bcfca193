"""Tells of a step that takes far longer than usual, while it does, and keeps where each thread stands."""

from __future__ import annotations

import contextlib
import faulthandler
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from maskrcnn.files import Appender

#: A step is far longer than usual from so many times the median of the last ones on ...
FACTOR = 20.0
#: ... and from so many seconds on: a disk or a network may pause.
LEAST_SECONDS = 60.0
#: Steps whose time is remembered; the first is not (compilation, first images).
_REMEMBERED = 50
#: Seconds between two looks.
_LOOK = 1.0


class Watchdog:
    """A thread that looks at the time while the loop makes steps.

    Args:
        path: a file for the stacks; it grows.
        tell: takes a sentence.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._began: float | None = None
        self._step = 0
        self._told = False
        self._end = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look while the body runs."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    @property
    def limit(self) -> float | None:
        """Seconds that a step may take; None before any is usual."""
        if not self._times:
            return None
        return max(FACTOR * statistics.median(self._times), LEAST_SECONDS)

    def begin(self, step: int) -> None:
        """A step begins, counted from 1."""
        self._step, self._told, self._began = step, False, time.monotonic()

    def done(self) -> None:
        """It is made; what follows is no part of a step."""
        began, self._began = self._began, None
        if began is not None and not self._told:
            self._times.append(time.monotonic() - began)
        elif began is not None:
            self._tell(f"step {self._step} is made, after {time.monotonic() - began:.0f} s")

    def _look(self) -> None:
        while not self._end.wait(_LOOK):
            self.look()

    def look(self) -> None:
        """Keep and tell what there is to be told now."""
        began, limit = self._began, self.limit
        if began is None or limit is None or self._told or time.monotonic() - began < limit:
            return
        self._told = True
        usual, kept = statistics.median(self._times), ""
        try:
            file = Appender(self._path)
            with contextlib.closing(file):
                file.append(f"\nstep {self._step}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
                file.lend(lambda number: faulthandler.dump_traceback(number, all_threads=True))
            kept = f"; where each thread stands is kept in {self._path}"
        except OSError:
            pass
        self._tell(
            f"step {self._step} takes more than {limit:.0f} s, where {usual:.2g} s are usual{kept}; it is"
            " waited for. If it never ends: a disk or network drive that does not answer, another process"
            " that takes the device or the cores, or a rank that stands still"
        )
