"""A run's figures as tables for other programs: ``train.csv`` and ``eval.csv``, a row a step."""

from __future__ import annotations

import csv
import io
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.config import Config
from maskrcnn.engine.events import TRACKERS, Ended
from maskrcnn.files import Appender, replacing

#: Rows that are kept in memory while they cannot be written.
_PENDING = 10_000


@TRACKERS.register("csv")
@dataclass(frozen=True, kw_only=True)
class CsvConfig(Config):
    """Tables ``train.csv`` and ``eval.csv`` in the run's folder: a row a step, a column a figure."""

    @property
    def package(self) -> str:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        return ""

    def open(self, folder: Path, start_step: int, settings: Mapping[str, str]) -> CsvFiles:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        return CsvFiles(folder, start_step)


class CsvFiles:
    """Both tables of a run; a tracker."""

    def __init__(self, folder: Path, start_step: int) -> None:
        self._files = {kind: WideFile(folder / f"{kind}.csv", start_step) for kind in ("train", "eval")}

    def file(self, kind: str) -> Path | None:
        """See :class:`maskrcnn.engine.events.Tracker`."""
        return self._files[kind].path if kind in self._files else None

    def record(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Add a row to the table of its kind, where there is one; errors as :meth:`WideFile.add`."""
        if kind in self._files:
            self._files[kind].add(step, values)

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Tables hold none."""

    def close(self, ended: Ended) -> None:
        """Close both."""
        for file in self._files.values():
            file.close()


class WideFile(Appender):
    """A table whose first column is the step; a figure that comes for the first time adds a column."""

    def __init__(self, path: Path, start_step: int) -> None:
        """
        Args:
            path: made with the first row.
            start_step: rows of later steps, and one cut short by a crash, are dropped.

        Raises:
            OSError: it cannot be written; it is then as it was.
        """
        super().__init__(path)
        self._columns: list[str] = []
        self._rows: deque[dict[str, Any]] = deque(maxlen=_PENDING)
        if path.exists():
            self._columns, kept = self._read()
            self._rewrite([row for row in kept if int(row[0]) <= start_step])

    def _read(self) -> tuple[list[str], list[list[str]]]:
        """Names of the columns, and the whole rows."""
        with self.path.open(encoding="utf-8", errors="replace", newline="") as file:
            head, *rows = list(csv.reader(file)) or [[]]
        return head, [row for row in rows if len(row) == len(head) and row[0].isdecimal()]

    def _rewrite(self, rows: list[list[str]]) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        width = len(self._columns)
        with replacing(self.path) as file:
            file.write(_line(self._columns))
            file.writelines(_line([*row, *[""] * (width - len(row))]) for row in rows)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            OSError: it, or one before it, could not be written; it goes out with the next that can.
        """
        self._rows.append({"step": step, **values})
        self.flush()

    def flush(self) -> None:
        """Write the rows that are waiting; errors as :meth:`add`."""
        while self._rows:
            row = self._rows[0]
            new = [name for name in row if name not in self._columns]
            if new:
                before = self._columns
                rows = self._read()[1] if before else []
                self._columns = [*before, *new]
                try:
                    self._rewrite(rows)
                except OSError:
                    self._columns = before
                    raise
            self._write(_line([row.get(name, "") for name in self._columns]))
            self._rows.popleft()


def _line(cells: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8")
