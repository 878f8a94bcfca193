"""What a data set of another format is imported from: its files, its images, its splits."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, TypeAlias
from urllib.parse import unquote

from PIL import Image

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.file_names import leaves_folder, shown
from maskrcnn.data.image_files import image_path
from maskrcnn.data.image_header import read_header
from maskrcnn.data.images import read_image

#: Ends of the names of image files.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp")
#: Words of folders and files that name a split.
_SPLITS = {
    **dict.fromkeys(("train", "training", "train2017", "train2014", "default", "stage1_train"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val2017", "val2014", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "test2017"), "test"),
}
#: What a labelling server puts before the name of a file that is loaded up to it.
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")

Parts: TypeAlias = Literal["parts", "whole"]


@dataclass(frozen=True)
class LabelSource:
    """What is to be imported, and how.

    labels: a file or a folder.  images: where the images lie, if not there.
    allow_outside: follow names of images that lead out of these folders.
    class_name: the class of objects of formats that have none.
    binary: of a mask file with a single value, whether each of its separate parts is an object, or the whole.
    boxes_as_masks: take a box without a mask for the mask of all its pixels, where others have masks.
    keep_crowds: what a labelling tool marks as a crowd by itself stays one.
    """

    labels: Path
    images: Path | None = None
    allow_outside: bool = False
    class_name: str = "object"
    binary: Parts = "parts"
    boxes_as_masks: bool = False
    keep_crowds: bool = False

    @cached_property
    def folder(self) -> Path:
        """The folder of the labels."""
        return self.labels if self.labels.is_dir() else self.labels.parent

    @cached_property
    def files(self) -> list[Path]:
        """The file itself, or all files of the folder, in order; links to folders are not followed."""
        if not self.labels.is_dir():
            return [self.labels]
        return sorted(files_below(self.labels))

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Those of :attr:`files` whose names end so."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Image files by the last part of their names."""
        found: dict[str, list[Path]] = defaultdict(list)
        for folder in dict.fromkeys((self.images or self.folder, self.folder)):
            for path in files_below(folder):
                if path.suffix.lower() in IMAGE_SUFFIXES and path not in found[path.name]:
                    found[path.name].append(path)
        return found

    @cached_property
    def _guessed(self) -> dict[Path, str]:
        """Files that were found by a part of their name alone, and by which name."""
        return {}

    def find_image(self, name: str, beside: Path, split: str = "") -> Path:
        """The file that a label file in the folder ``beside`` means by ``name``.

        First as it is written, below the folder of images, that of the label file and that of the labels;
        then the file there whose path ends as the name does, as far as can be, in no folder of another split.

        Raises:
            FaultError: there is none, there are several, or it lies outside and that is not allowed.
        """
        if "\0" in name or not name.strip():
            raise FaultError("image without a file name", "its image has no name that a file can have")
        plain = name.replace("\\", "/")
        for folder in dict.fromkeys((self.images or beside, beside, self.folder)):
            path = image_path(folder, name)
            inside = not leaves_folder(name) and not leaves_folder(plain)
            within = (Path(os.path.normpath(path)).is_relative_to(base) for base in self._allowed)
            if (inside or self.allow_outside or any(within)) and path.is_file():
                return path
        last = PurePosixPath(unquote(plain.rpartition("?d=")[2] or plain)).name
        candidates = self._by_name.get(last) or self._by_name.get(_UPLOADED.sub("", last)) or []
        candidates = [p for p in candidates if split in ("", split_of(self._below(p), default=split))]
        agreeing = [_common_end(p.parts, PurePosixPath(plain).parts) for p in candidates]
        candidates = [p for p, n in zip(candidates, agreeing, strict=True) if n == max(agreeing)]
        if len(candidates) == 1 and self._guessed.setdefault(candidates[0], name) == name:
            return candidates[0]
        if candidates:
            raise FaultError(
                "image of an ambiguous name",
                f"there are several images that end in {shown(last)[:200]}, and none is called"
                f" {shown(name)[:200]}; name the folder that this name starts from with --images",
            )
        if leaves_folder(plain) and (beside / plain).is_file():
            raise FaultError(
                "image outside the folder",
                f"its image {shown(name)[:200]} lies outside {shown(self.images or self.folder)}; name its"
                " folder with --images, or follow such names with --allow-outside",
            )
        where = shown(self.images or self.folder)
        raise FaultError(
            "missing image", f"its image {shown(name)[:200]} is not in {where}; name its folder with --images"
        )

    def _below(self, path: Path) -> PurePath:
        """A path as it stands below the folder of images, or of labels."""
        bases = [
            base for base in (self.images, self.folder) if base is not None and path.is_relative_to(base)
        ]
        return path.relative_to(bases[0]) if bases else path

    @cached_property
    def _allowed(self) -> list[Path]:
        return [Path(os.path.normpath(p)) for p in (self.folder, self.images) if p is not None]


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; links to folders are not followed."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield from (Path(where) / name for name in sorted(names) if not name.startswith("."))


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many last parts two paths share."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def split_of(path: PurePath, *, file_too: bool = False, default: str = "train") -> str:
    """The split that a relative path names by a folder; with ``file_too``, or by a word of its name."""
    words = [part.lower() for part in path.parts[:-1]]
    words += re.split(r"[_\-. ]", path.stem.lower()) if file_too else []
    return next((_SPLITS[word] for word in words if word in _SPLITS), default)


def without_split(parts: Iterable[str]) -> tuple[str, ...]:
    """Folders of a path without those that name a split."""
    return tuple(part for part in parts if part.lower() not in _SPLITS)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels of an image as it is read, turned as its EXIF orientation says.

    Raises:
        DataError: it cannot be read.
    """
    header = read_header(path)
    if header is not None:
        return header.size(exif=True)
    try:
        with Image.open(path) as image:  # of a TIFF, the head alone
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        height, width = read_image(path).shape[:2]
        return height, width


def common_folder(paths: Sequence[Path], preferred: Path | None = None) -> Path:
    """The deepest folder that holds all files, or ``preferred`` where that does; absolute, links kept."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]  # noqa: PTH100, PTH120
    common = Path(os.path.commonpath(folders))
    wanted = None if preferred is None else Path(os.path.abspath(preferred))  # noqa: PTH100
    return wanted if wanted is not None and common.is_relative_to(wanted) else common
