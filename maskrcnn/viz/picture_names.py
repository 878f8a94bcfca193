"""Names of pictures that are drawn of images: one each, which says where the image lies."""

from __future__ import annotations

import hashlib
import unicodedata
from itertools import chain, count
from pathlib import PurePath

#: Between the names of folders: ``seq1/101.png`` is drawn as ``seq1__101.png``.
JOINT = "__"
#: Bytes of the longest name; a file system takes 255, suffixes included.
LONGEST = 180
#: What one file system or another does not allow in a name.
_FORBIDDEN = frozenset('<>:"/\\|?*')


class PictureNames:
    """Hands out names without their suffix, no two of them equal on any file system.

    An image's name is its path below the folder of images, joined by ``__``, without its suffix: those of
    ``seq1/101.png`` and ``seq2/101.png`` are ``seq1__101`` and ``seq2__101``.  Where that was given before
    (``101.png`` and ``101.jpg``, ``A.png`` and ``a.png``), the suffix stays on, or else a digest of the path
    follows.  So the names of a list of images are always the same, and mostly those of each image alone.

    What does not print or is not allowed everywhere becomes ``_``; names that would be hidden files, or look
    like an option of a command, begin with it.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, path: str | PurePath) -> str:
        """The name of the picture of ``path``, which is relative to where the images lie.

        What leads elsewhere (``/``, ``..``) is left out of the name.
        """
        text = str(path)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        plain, whole = plain_name(text), JOINT.join(_parts(text))
        own = f"{plain[:LONGEST]}-{digest}"
        candidates = chain((plain, whole, own), (f"{own}-{n}" for n in count(2)))
        name = next(n for c in candidates if _key(n := _sound(c, digest)) not in self._taken)
        self._taken.add(_key(name))
        return name


def plain_name(path: str) -> str:
    """The folders and the file's name without its suffix, joined."""
    *folders, last = _parts(path)
    return JOINT.join([*folders, PurePath(last).stem])


def _parts(path: str) -> list[str]:
    anchor = PurePath(path).anchor
    return [p for p in PurePath(path).parts if p not in ("..", anchor)] or ["image"]


def _key(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _sound(name: str, digest: str) -> str:
    """``name`` as every file system takes it."""
    name = "".join(c if c.isprintable() and c not in _FORBIDDEN else "_" for c in name)
    if name.startswith(("-", ".", "~", " ")):
        name = f"_{name}"
    if len(name.encode()) <= LONGEST:
        return name
    return name.encode()[:LONGEST].decode(errors="ignore") + f"-{digest}"
