"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop, honoured at the end of the step."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Training stopped because of a signal, after its checkpoint was written.

    ``exit_status`` follows the shell: 128 + the signal's number (130 for Ctrl-C, 143 for SIGTERM, 129 for
    SIGHUP).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


#: Seconds within which a second SIGTERM or SIGHUP is the first one once more.
_ONE_WISH = 5.0
#: What asks to stop; Windows has no SIGHUP.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class StopRequest:
    """Context manager that turns the first of :data:`STOP_SIGNALS` into ``.signal_number``.

    A second one acts as it would without us, so that nobody is held by a step that hangs; but SIGTERM and
    SIGHUP within seconds are the same wish, which came on two ways: systemd and Slurm send them to all
    processes, and torchrun and shells pass them on to those they started.  Forked children
    (loader workers) inherit the handler and do nothing there: the parent deals with signals that a terminal,
    systemd or Slurm sends to all processes, and needs its workers to finish the step.  SIGHUP stays ignored
    where it is, which is what nohup does.  Outside the main thread, where Python allows no handlers, nothing
    is caught.
    """

    def __init__(self) -> None:
        #: 0, or the number of the signal that asked to stop.
        self.signal_number = 0
        self._asked = 0.0
        self._owner = os.getpid()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            if number not in (signal.SIGINT, signal.SIGTERM) and signal.getsignal(number) == signal.SIG_IGN:
                continue
            with contextlib.suppress(ValueError):  # not the main thread
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.signal_number != 0:
            if number == signal.SIGINT or time.monotonic() - self._asked > _ONE_WISH:
                _put_back(self._previous)
                signal.raise_signal(number)
            return
        self.signal_number = number
        self._asked = time.monotonic()
        if os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nmaskrcnn: stopping after this step (once more stops at once)\n")


class _AtOnce(BaseException):
    """A signal came where no step has to be finished; no ``except Exception`` swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_at_once(tell: Callable[[str], str]) -> Iterator[None]:
    """Within it SIGTERM and SIGHUP end what is under way as Ctrl-C does, so that locks and halves of files
    are put away.  A :class:`StopRequest` inside takes its place.

    For a process that is alone: Python's handlers wait while a library waits for other processes.

    Args:
        tell: the signal's name -> the sentence of :class:`Interrupted`.

    Raises:
        Interrupted: one of them came.
    """
    owner, last = os.getpid(), -_ONE_WISH
    previous: dict[int, object] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if os.getpid() != owner:  # a child that has not set its own yet
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif time.monotonic() - last > _ONE_WISH:
            last = time.monotonic()
            raise _AtOnce(number)

    for number in STOP_SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # not the main thread
                previous[number] = signal.signal(number, handle)
    try:
        yield
    except _AtOnce as stop:
        raise Interrupted(tell(signal.Signals(stop.signal_number).name), stop.signal_number) from None
    finally:
        _put_back(previous)


def _put_back(handlers: dict[int, object]) -> None:
    while handlers:
        signal.signal(*handlers.popitem())  # type: ignore[arg-type]
