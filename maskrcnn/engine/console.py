"""The one place that prints: lines to the terminal and, in a run, to its ``log.txt``."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TextIO


class Console:
    """Prints on rank 0 and keeps a copy in a file.

    Lines for people go to standard output; warnings to standard error.  Other ranks are silent, except for
    warnings.
    """

    def __init__(self, *, quiet: bool = False, prefix: str = "") -> None:
        """
        Args:
            quiet: print nothing but warnings (ranks other than 0).
            prefix: put before each warning, as ``rank 1: ``.
        """
        self.quiet = quiet
        self._prefix = prefix
        self._file: TextIO | None = None
        self._handler = _ToConsole(self)

    def take_logs(self) -> None:
        """Show what the package's modules log (``logging``), until :meth:`close`."""
        logger = logging.getLogger("maskrcnn")
        logger.addHandler(self._handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)

    def open(self, path: Path) -> None:
        """Also append every line, with the time, to ``path``."""
        self._close_file()
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")

    def close(self) -> None:
        """Stop writing to the file, and taking over the package's log messages."""
        logging.getLogger("maskrcnn").removeHandler(self._handler)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def line(self, text: str = "") -> None:
        """Print ``text`` (one or several lines)."""
        if self.quiet:
            return
        print(text, flush=True)
        self._keep(text)

    def warn(self, text: str) -> None:
        """Print ``warning: text`` to standard error."""
        text = f"{self._prefix}warning: {text}"
        print(text, file=sys.stderr, flush=True)
        self._keep(text)

    def _keep(self, text: str) -> None:
        if self._file is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            self._file.write("".join(f"{stamp} {part}\n" for part in text.split("\n")))
            self._file.flush()


class _ToConsole(logging.Handler):
    """Warnings become the console's, on rank 0 alone (all ranks read the same data); the rest its lines."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        if record.levelno < logging.WARNING:
            self._console.line(record.getMessage())
        elif not self._console.quiet:
            self._console.warn(record.getMessage())
