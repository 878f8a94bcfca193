"""TensorBoard's event files, written record by record.

TensorBoard's own writer works in a thread that dies with a traceback where the disk is full; here a record
that cannot be written waits for room, as those of the other growing files do.
"""

from __future__ import annotations

import io
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.engine.events import BOARDS
from maskrcnn.files import Appender


@BOARDS.register("tensorboard")
class EventFile(Appender):
    """One event file in ``folder``."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        """
        Args:
            folder: made with the first record.
            purge_step: records of this step and later ones that earlier files hold are not shown.

        Raises:
            ImportError: tensorboard is not installed.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._event, self._records, self._summary = Event, RecordWriter, summary
        maker = f"{platform.node()}.{os.getpid()}.{time.monotonic_ns()}"
        super().__init__(folder / f"events.out.tfevents.{int(time.time()):010d}.{maker}")
        self._begin: list[Any] = [
            Event(wall_time=time.time(), step=purge_step, file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START)),
        ]

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a number.

        Raises:
            OSError: it could not be written; it goes out with the next record that can.
        """
        self._add(self._event(wall_time=time.time(), step=step, summary=self._summary.scalar(name, value)))

    def image(self, name: str, image: np.ndarray[Any, np.dtype[np.uint8]], step: int) -> None:
        """Add a picture, uint8 [H, W, 3] RGB; errors as :meth:`scalar`."""
        made = self._summary.image(name, image, dataformats="HWC")
        self._add(self._event(wall_time=time.time(), step=step, summary=made))

    def _add(self, event: Any) -> None:
        if self._begin:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        begin, self._begin = self._begin, []
        framed = io.BytesIO()  # the record writer puts length and sums round each record
        for item in (*begin, event):
            self._records(framed).write(item.SerializeToString())
        self.append(framed.getvalue())
