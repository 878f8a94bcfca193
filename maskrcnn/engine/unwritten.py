"""What could not be written: told once each, while the work goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maskrcnn.errors import OutputError
from maskrcnn.files import unwritten

#: So many things are named in one sentence.
_NAMED = 5


class Unwritten:
    """Tries to write, tells the first failure of each of a few things and its end, and remembers all."""

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
                if len(self.missing) > _NAMED:
                    return False
                sentence = unwritten(path, error) if isinstance(error, OSError) else error
                later = "; what is missing is written as soon as it can be" if grows else ""
                self._tell(f"{sentence} (going on without{later})")
            return False
        if path in self.missing:
            self.missing.remove(path)
            self._tell(f"{path}: is written again")
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
