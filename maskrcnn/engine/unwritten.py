"""What a run could not write: told once each, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maskrcnn.errors import OutputError
from maskrcnn.files import reason


class Unwritten:
    """Tries to write, tells the first failure of each thing and its end, and remembers what is missing."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """
        Args:
            tell: takes a sentence.
        """
        self._tell = tell
        #: What could not be written at its last try, in the order of the first failures.
        self.missing: list[Path] = []

    def attempt(self, path: Path, write: Callable[[], object], *, grows: bool = False) -> bool:
        """Call ``write``, which writes ``path``; whether it did.

        grows: the file is appended to, and what is missing goes out with the next record.
        """
        try:
            write()
        except (OSError, OutputError) as error:
            if path not in self.missing:
                self.missing.append(path)
                self._tell(self._sentence(path, error, grows))
            return False
        if path in self.missing:
            self.missing.remove(path)
            self._tell(f"{path}: is written again")
        return True

    def _sentence(self, path: Path, error: OSError | OutputError, grows: bool) -> str:
        later = "what is missing follows when it can be written" if grows else "it is tried again next time"
        if isinstance(error, OutputError):
            return f"{error}; the run goes on without, and {later}"
        why = reason(error, path.parent)
        return f"{path}: could not be written: {why}; the run goes on without, and {later}"
