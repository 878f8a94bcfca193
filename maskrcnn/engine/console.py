"""The one place that prints: lines to the terminal and, in a run, to its ``log.txt``."""

from __future__ import annotations

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
        self._quiet = quiet
        self._prefix = prefix
        self._file: TextIO | None = None

    def open(self, path: Path) -> None:
        """Also append every line, with the time, to ``path``."""
        self.close()
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Stop writing to the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def line(self, text: str = "") -> None:
        """Print ``text`` (one or several lines)."""
        if self._quiet:
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
