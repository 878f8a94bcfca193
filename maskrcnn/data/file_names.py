"""Names of image files: what may be opened, and how a name is shown.

On Linux a file name is bytes, and Python hands those that are no UTF-8 on as lone surrogates (PEP 383), which
neither a terminal nor a UTF-8 file takes.  A json can also hold text that no file can be called.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePath

from maskrcnn.errors import DataError, few


def shown(name: str | PurePath) -> str:
    r"""A file name for messages and results: one line of text that every encoding of Unicode takes.

    Bytes that are no UTF-8 become ``\xe9``, other characters that do not print ``\n``, ``\x1b``, ``\u202e``;
    a name without any is shown as it is.
    """
    text = str(name)
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def leaves_folder(name: str) -> bool:
    """Whether ``folder / name`` lies outside the folder: ``name`` is absolute, or its ``..`` lead out of it.

    Judged by the text alone.  Symbolic links are followed: whoever put one into the folder of images wants it
    read, and a json cannot make one.
    """
    if ".." not in name and not name.startswith("/") and os.name != "nt":
        return False  # nearly all of them
    plain = name.replace("\\", "/") if os.name == "nt" else name
    if PurePath(name).is_absolute() or PurePath(name).drive or plain.startswith("/"):
        return True
    return posixpath.normpath(plain).split("/")[0] == ".."


def refuse_outside(names: Iterable[tuple[int, str]], source: Path, folder: Path) -> None:
    """Names of images, (image id, name) each, must stay inside the folder.

    Raises:
        DataError: some do not; names the first few, and the key that allows it.
    """
    outside = [(image_id, name) for image_id, name in names if leaves_folder(name)]
    if not outside:
        return
    named = few(f"image {i} ({shown(name)[:200]})" for i, name in outside)
    raise DataError(
        f"{shown(source)}: file names that lead out of the folder of images {shown(folder)}: {named}; if"
        " you trust this file to name any file of this machine, set allow_outside: true on the data set; else"
        " make the names relative to the folder"
    )


def json_name(path: PurePath | str) -> dict[str, str]:
    """An image's name for a json: ``file_name``, and where that is no Unicode its bytes beside it, as hex.

    Half surrogates, which stand for such bytes in Python, many readers of json refuse.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return {"file_name": shown(path), "file_name_hex": os.fsencode(path).hex()}
    return {"file_name": str(path)}
