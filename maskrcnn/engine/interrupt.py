"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop, honoured at the end of the step."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType, TracebackType


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.signal_number != 0:
            if number == signal.SIGINT or time.monotonic() - self._asked > _ONE_WISH:
                self._restore()
                signal.raise_signal(number)
            return
        self.signal_number = number
        self._asked = time.monotonic()
        if os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nmaskrcnn: stopping after this step (once more stops at once)\n")
