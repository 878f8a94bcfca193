"""Ctrl-C and SIGTERM as a wish to stop, honoured at the end of the step."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Training stopped because of a signal, after its checkpoint was written.

    ``exit_status`` follows the shell: 128 + the signal's number (130 for Ctrl-C, 143 for SIGTERM).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into ``.signal_number``.

    A second one acts as it would without us, so that nobody is held by a step that hangs.  Forked children
    (loader workers) inherit the handler: there Ctrl-C is ignored, since the parent deals with it, and
    SIGTERM ends the child.  Outside the main thread, where Python allows no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        #: 0, or the number of the signal that asked to stop.
        self.signal_number = 0
        self._owner = os.getpid()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
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
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self.signal_number = number
        self._restore()
        os.write(2, b"\nmaskrcnn: stopping after this step (once more stops at once)\n")
