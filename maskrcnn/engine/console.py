"""The one place that prints: to the terminal and, in a run, to its ``log.txt``; what cannot be written."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from maskrcnn.errors import OutputError
from maskrcnn.files import Appender, unwritten

#: Stands in a run's log before what ended it before its end.
ENDED = "ended: "
#: So many things are named in one sentence.
_NAMED = 5


@dataclass
class Unwritten:
    """Tries to write, tells the first failure of each of a few things and its end, and remembers all.

    tell: takes a sentence.
    missing: what could not be written at its last try, in the order of the first failures.
    """

    tell: Callable[[str], None]
    missing: list[Path] = field(default_factory=list)

    def attempt(self, path: Path, write: Callable[[], object], *, grows: bool = False) -> bool:
        """Call ``write``, which writes ``path``; whether it did.

        grows: the file is appended to, and what is missing goes out with the next record.
        """
        try:
            write()
        except (OSError, OutputError) as error:
            if path not in self.missing:
                self.missing.append(path)
                if len(self.missing) > _NAMED:
                    return False
                sentence = unwritten(path, error) if isinstance(error, OSError) else error
                later = "; what is missing is written as soon as it can be" if grows else ""
                self.tell(f"{sentence} (going on without{later})")
            return False
        if path in self.missing:
            self.missing.remove(path)
            self.tell(f"{path}: is written again")
        return True

    def raise_if_any(self) -> None:
        """
        Raises:
            OutputError: something is missing.
        """
        if self.missing:
            raise OutputError(f"not written: {self.names()} (the reason stands above); all else is done")

    def names(self) -> str:
        """What is missing: the first few, how many more, and the last."""
        *first, last = map(str, self.missing)
        more = f", {len(first) - _NAMED} more" if len(first) > _NAMED else ""
        return ", ".join(first[:_NAMED]) + more + (" and " if first else "") + last


class Console:
    """Prints on rank 0 and keeps a copy in a file.

    Lines for people go to standard output; warnings to standard error.  Other ranks are silent, except for
    warnings.  In a run neither a full disk nor a terminal that is gone ends it: see :class:`Unwritten`.
    """

    def __init__(self, *, quiet: bool = False, prefix: str = "") -> None:
        """
        Args:
            quiet: print nothing but warnings (ranks other than 0).
            prefix: put before each warning, as ``rank 1: ``.
        """
        self.quiet = quiet
        self._prefix = prefix
        self._file: Appender | None = None
        #: What could not be written; all parts of a run tell it here.
        self.unwritten = Unwritten(self.warn)
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
        self._file = Appender(path)

    def close(self) -> None:
        """Stop writing to the file, and taking over the package's log messages."""
        logging.getLogger("maskrcnn").removeHandler(self._handler)
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # told when it first failed
                file.close()

    def line(self, text: str = "") -> None:
        """Print ``text`` (one or several lines)."""
        if self.quiet:
            return
        self._print(text, sys.stdout)
        self._keep(text)

    def warn(self, text: str) -> None:
        """Print ``warning: text`` to standard error."""
        text = f"{self._prefix}warning: {text}"
        self._print(text, sys.stderr)
        self._keep(text)

    @contextlib.contextmanager
    def last_words(self) -> Iterator[None]:
        """Keep in the file alone, after :data:`ENDED`, what ends the body before its end; it passes."""
        try:
            yield
        except BaseException as error:
            kind = type(error)
            said = " ".join(str(error).split())
            ours = kind.__module__.startswith("maskrcnn.") and said
            self._keep(ENDED + (said if ours else f"{kind.__name__}{f': {said}' if said else ''}"))
            raise

    def _print(self, text: str, stream: TextIO) -> None:
        try:
            print(text, file=stream, flush=True)
        except OSError as error:
            # A run whose reader, terminal or disk is gone has its log still; any other command ends.
            if self._file is None:
                raise
            if stream is sys.stdout:
                name = Path("standard output")
                if name not in self.unwritten.missing:
                    self.unwritten.missing.append(name)
                    self.warn(
                        f"{name}: could not be written: {error.strerror}; the run goes on, see its log.txt"
                    )

    def _keep(self, text: str) -> None:
        file = self._file
        if file is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            record = "".join(f"{stamp} {part}\n" for part in text.split("\n")).encode(
                "utf-8", "backslashreplace"
            )
            self.unwritten.attempt(file.path, lambda: file.append(record), grows=True)


@contextlib.contextmanager
def logs_shown() -> Iterator[None]:
    """Show what the package's modules log while the body runs, where no console does."""
    with contextlib.ExitStack() as stack:
        if not logging.getLogger("maskrcnn").handlers:
            stack.enter_context(contextlib.closing(Console())).take_logs()
        yield


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
