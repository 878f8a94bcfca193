"""Which images files, folders and patterns on a command line stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

from maskrcnn.data.doctor.page_count import count_pages
from maskrcnn.data.file_names import shown
from maskrcnn.data.image_files import split_page
from maskrcnn.data.regions import Pixels
from maskrcnn.errors import UserError, plural
from maskrcnn.viz.picture_names import PictureNames, plain_name

#: Taken from folders; a file named outright may have any name.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".jp2", ".npy", ".png", ".tif", ".tiff", ".webp")
#: Videos, which OpenCV reads.
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
_TIFF = (".tif", ".tiff")
_URL = re.compile("[A-Za-z][A-Za-z0-9+.-]+://")
#: This many files and folders that were passed over are named.
_NAMED = 5


@dataclass(frozen=True)
class ImagePage:
    """A page of a TIFF of several, from 0; ``str`` of it is ImageMagick's name, ``stack.tif[2]``."""

    path: Path
    page: int

    def __str__(self) -> str:
        return f"{self.path}[{self.page}]"


#: A file, a page of one, uint8 [H, W, 3] RGB (or [H, W] gray), or what was read before.
AnyImage: TypeAlias = npt.NDArray[Any] | Path | str | ImagePage | Pixels


@dataclass(frozen=True)
class Images:
    """What was found.

    names: the images, each once, in their order, and the name of the picture of each (without suffix).
    notes: what folders hold besides, a sentence a folder.
    videos: the same of videos.
    below: of each of both, its path below the folder that it was looked for in.
    """

    names: dict[Path | ImagePage, str]
    notes: list[str]
    videos: dict[Path, str]
    below: dict[Path | ImagePage, str]


def find_images(inputs: Sequence[str], *, recursive: bool = False, pages: bool = True) -> Images:
    """Files, the images of folders (sorted), what patterns match and lists name; each once.

    A list is a file ``.txt`` with a name a line, relative to the list's folder.  Videos are found where they
    are named, or match a pattern; in folders they are passed over, and told.

    Args:
        recursive: of folders, take their sub-folders too; symbolic links to folders are not followed.
        pages: take each page of a TIFF of several for an image of its own.

    Raises:
        UserError: something names nothing, cannot be read, or is a URL.
    """
    found: dict[Path, Path] = {}  # the image, and the folder that it was looked for in
    notes: list[str] = []
    for item in inputs:
        path = Path(item)
        if _URL.match(item) and not os.path.exists(item):  # noqa: PTH110 - it takes any name
            raise UserError(
                f"{shown(item)}: is a URL, and images are read from files alone; download it, and name the"
                " file"
            )
        if path.suffix.lower() == ".txt" and os.path.isfile(item):  # noqa: PTH113
            found |= {file: path.parent for file in _listed(path) if file not in found}
        elif os.path.isdir(item):  # noqa: PTH112 - Path raises where a name is too long
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
    each: dict[Path | ImagePage, Path] = {}
    for path, folder in found.items():
        count = count_pages(path) if pages and path.suffix.lower() in _TIFF else 1
        each |= {(path if count == 1 else ImagePage(path, page)): folder for page in range(count)}
    if stacks := [path for path in found if path not in each]:
        notes.append(f"{_count(stacks, None, 'TIFF')} of several pages, each an image")
    below, names = _picture_names(each)
    videos = {path: names.pop(path) for path in found if path.suffix.lower() in VIDEO_SUFFIXES}
    return Images(names, notes, videos, below)


def _listed(path: Path) -> list[Path]:
    """The files that a list names.

    Raises:
        UserError: one of them is not there, or it names none.
    """
    try:
        lines = [os.fsdecode(line).strip() for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise UserError(f"{shown(path)}: the list cannot be read ({error.strerror})") from None
    files = []
    for number, line in enumerate(lines, start=1):
        if line and not os.path.isfile(path.parent / line):  # noqa: PTH113
            what = "is a URL; download it" if _URL.match(line) else "there is no such file"
            raise UserError(
                f"{shown(path)}:{number}: {shown(line)[:200]}: {what} (a list has the name of a file a line,"
                f" relative to {shown(path.parent)})"
            )
        files += [path.parent / line] if line else []
    if not files:
        raise UserError(f"{shown(path)}: the list names no file; write one a line")
    return files


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


def _picture_names(
    found: Mapping[Path | ImagePage, Path],
) -> tuple[dict[Path | ImagePage, str], dict[Path | ImagePage, str]]:
    """The path of each image below the folder that it was looked for in, and a name for its picture: that
    path, and where it makes two of them equal, the one below the deepest folder that holds all of those.
    """
    below = {image: os.path.relpath(str(image), folder) for image, folder in found.items()}
    apart = below
    if len({plain_name(name) for name in below.values()}) < len(below):
        try:
            common = os.path.commonpath({os.path.abspath(f) for f in found.values()})  # noqa: PTH100 - no links
            apart = {image: os.path.relpath(str(image), common) for image in found}
        except ValueError:  # on several drives
            pass
    names = PictureNames()
    return below, {image: names.take(_page_last(image, name)) for image, name in apart.items()}


def _page_last(image: Path | ImagePage, name: str) -> str:
    """``stack.tif[2]`` as ``stack_2.tif``, whose picture is called ``stack_2``."""
    if isinstance(image, Path):
        return name
    root, suffix = os.path.splitext(split_page(name)[0])  # noqa: PTH122 - of a name with folders
    return f"{root}_{image.page}{suffix}"
