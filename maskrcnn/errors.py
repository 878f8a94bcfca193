"""Errors that a user can cause and mend.

The command line prints a :class:`UserError` as one sentence and exits with status 2; anything else is
a bug of ours and keeps its traceback.  Every message says what is wrong, where (file:line:column, image
id, annotation id) and what to do.  Lists in it are cut short by :func:`few`.
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave us is wrong; the message is already phrased for them."""


class ConfigError(UserError, ValueError):
    """A configuration file or a ``--set`` is wrong."""


class DataError(UserError, ValueError):
    """An image or an annotation is missing, broken or contradictory."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, or does not belong to this model."""


class OutputError(UserError):
    """A file or folder cannot be written; what was there before is as it was."""


def few(items: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """The first ``most`` of the items as text, and how many more there are: ``a, b, and 7 more``.

    Every list that is printed goes through here, so that none fills the screen.
    """
    listed = [str(item) for item in items]
    if len(listed) <= most:
        return separator.join(listed)
    return f"{separator.join(listed[:most])}{separator}and {len(listed) - most} more"


def plural(number: int, one: str, several: str = "", *, spec: str = "") -> str:
    """So many of something, in words: ``1 file``, ``3 files``, ``1 box``, ``2 entries``.

    Every number of things that may be 1 is printed through here.

    Args:
        one: what follows the number 1, as ``file`` or ``file is missing``.
        several: what follows others; made of ``one`` by the rule where it is empty.
        spec: how the number is formatted.
    """
    if not several:
        ending = "ies" if one.endswith("y") and one[-2:-1] not in "aeiou" else "s"
        ending = "es" if one.endswith(("s", "x", "ch", "sh")) else ending
        several = one[: -1 if ending == "ies" else None] + ending
    return f"{number:{spec}} {one if number == 1 else several}"


def cut(text: str, most: int = 600) -> str:
    """``text`` without its middle where it is longer than ``most`` characters, as keys and values can be."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"
