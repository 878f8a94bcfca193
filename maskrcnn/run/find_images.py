"""Which images files, folders and patterns on a command line stand for."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.file_names import shown
from maskrcnn.errors import UserError, plural
from maskrcnn.viz.picture_names import PictureNames, plain_name

#: Taken from folders; a file named outright may have any name.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".jp2", ".npy", ".png", ".tif", ".tiff", ".webp")
#: This many files and folders that were passed over are named.
_NAMED = 5


@dataclass(frozen=True)
class ImagePage:
    """A page of a TIFF of several, from 0; ``str`` of it is ImageMagick's name, ``stack.tif[2]``."""

    path: Path
    page: int

    def __str__(self) -> str:
        return f"{self.path}[{self.page}]"


@dataclass(frozen=True)
class Images:
    """What was found.

    names: the images, each once, in their order, and the name of the picture of each (without suffix).
    notes: what folders hold besides, a sentence a folder.
    """

    names: dict[Path, str]
    notes: list[str]


def find_images(inputs: Sequence[str], *, recursive: bool = False) -> Images:
    """Files, the images of folders (sorted), and what patterns match; each once.

    Args:
        recursive: of folders, take their sub-folders too; symbolic links to folders are not followed.

    Raises:
        UserError: something names nothing, or cannot be read.
    """
    found: dict[Path, Path] = {}  # the image, and the folder that it was looked for in
    notes: list[str] = []
    for item in inputs:
        path = Path(item)
        if os.path.isdir(item):  # noqa: PTH112 - Path raises where a name is too long
            files, note = _in_folder(path, recursive)
            notes += note
            found |= {file: path for file in files if file not in found}
        elif os.path.exists(item) or not glob.has_magic(item):  # noqa: PTH110
            if not os.path.exists(item):  # noqa: PTH110
                raise UserError(f"{shown(item)}: no such image, folder or pattern")
            found.setdefault(path, path.parent)
        else:
            matches = sorted(glob.glob(item, recursive=True))  # noqa: PTH207 - the pattern may be absolute
            folders = [Path(p) for p in matches if os.path.isdir(p)]  # noqa: PTH112
            files = [Path(p) for p in matches if Path(p) not in folders]
            passed = _count(folders, None, "folder") if folders and "**" not in item else ""
            if not files:
                raise UserError(
                    f"{shown(item)}: no file matches this pattern"
                    + (f", only {passed}; name a folder itself, or write {shown(item)}/*" if passed else "")
                )
            if passed:
                notes.append(
                    f"{shown(item)}: {plural(len(files), 'file')}; passed over {passed} (name them too)"
                )
            found |= {file: file.parent for file in files if file not in found}
    return Images(_picture_names(found), notes)


def _in_folder(folder: Path, recursive: bool) -> tuple[list[Path], list[str]]:
    """The images of a folder, and a sentence on what else it holds, if anything."""
    images: list[Path] = []
    others: list[Path] = []
    folders: list[Path] = []

    def complain(error: OSError) -> None:
        raise UserError(f"{shown(error.filename)}: the folder cannot be read ({error.strerror})") from None

    for where, inner, files in os.walk(folder, onerror=complain):
        here = Path(where)
        inner.sort()
        for name in sorted(files):
            (images if Path(name).suffix.lower() in SUFFIXES else others).append(here / name)
        if not recursive:
            folders += [here / name for name in inner]
            break
        folders += [here / name for name in inner if (here / name).is_symlink()]
    known = f"looked for {', '.join(SUFFIXES)}"
    note = []
    if others:
        note.append(f"{_count(others, folder, 'file')} of another kind ({known})")
    if folders:
        why = "links are not followed; name them too" if recursive else "take them with --recursive"
        note.append(f"{_count(folders, folder, 'folder')} ({why})")
    besides = f"passed over {' and '.join(note)}" if note else ""
    if not images:
        raise UserError(f"{shown(folder)}: no images in this folder ({besides or known})")
    return images, [f"{shown(folder)}: {plural(len(images), 'image')}; {besides}"] if note else []


def _count(paths: Sequence[Path], folder: Path | None, what: str) -> str:
    """``3 files: a.gif, b.heic, notes.txt``, with some of the names (relative to ``folder``, if given)."""
    few = ", ".join(shown(p if folder is None else p.relative_to(folder))[:100] for p in paths[:_NAMED])
    more = ", ..." if len(paths) > _NAMED else ""
    return f"{plural(len(paths), what)}: {few}{more}"


def _picture_names(found: dict[Path, Path]) -> dict[Path, str]:
    """A name for the picture of each image: its path below the folder that it was looked for in; where that
    makes two of them equal, below the deepest folder that holds all of those.
    """
    below = {path: os.path.relpath(path, folder) for path, folder in found.items()}
    if len({plain_name(name) for name in below.values()}) < len(below):
        try:
            common = os.path.commonpath({os.path.abspath(f) for f in found.values()})  # noqa: PTH100 - no links
            below = {path: os.path.relpath(path, common) for path in found}
        except ValueError:  # on several drives
            pass
    names = PictureNames()
    return {path: names.take(name) for path, name in below.items()}
