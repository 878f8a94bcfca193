"""TensorBoard's event files, written record by record.

TensorBoard's own writer works in a thread that dies with a traceback where the disk is full; here a record
that cannot be written waits for room, as those of the other growing files do.
"""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.config import Config
from maskrcnn.engine.events import TRACKERS, Ended, curves
from maskrcnn.files import Appender


@TRACKERS.register("tensorboard")
@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig(Config):
    """Event files for TensorBoard, in ``tensorboard`` of the run's folder; as train.tensorboard: true."""

    @property
    def package(self) -> str:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        return "tensorboard"

    def open(self, folder: Path, start_step: int, settings: Mapping[str, str]) -> EventFile:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        return EventFile(folder / "tensorboard", start_step + 1)


class EventFile(Appender):
    """One event file in ``folder``; a tracker."""

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

    def file(self, kind: str) -> Path:
        """See :class:`maskrcnn.engine.events.Tracker`."""
        return self.path

    def close(self, ended: Ended = "whole") -> None:
        """Write everything out."""
        super().close()

    def record(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Add the numbers of a record.

        Raises:
            OSError: they could not be written; they go out with the next record that can.
        """
        self._add(step, [self._summary.scalar(*curve) for curve in curves(kind, values).items()])

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Add a picture, uint8 [H, W, 3] RGB; errors as :meth:`record`."""
        self._add(step, [self._summary.image(name, image, dataformats="HWC")])

    def _add(self, step: int, made: Sequence[Any]) -> None:
        if not made:
            return
        begin, self._begin = self._begin, []
        events = [self._event(wall_time=time.time(), step=step, summary=summary) for summary in made]
        framed = io.BytesIO()  # the record writer puts length and sums round each record
        for item in (*begin, *events):
            self._records(framed).write(item.SerializeToString())
        self.append(framed.getvalue())

    def _write(self, record: bytes) -> None:
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        super()._write(record)
