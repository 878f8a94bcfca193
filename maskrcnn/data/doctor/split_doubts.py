"""The doubt whether validation repeats training: by the names of files, else by the content of a sample."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from maskrcnn.data.doctor import DOUBTS, Doubt
from maskrcnn.data.doctor.doubts import few
from maskrcnn.data.doctor.file_doubts import normal_names, spread
from maskrcnn.data.fault_report import NAMED
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.image_files import file_size, image_path, open_image
from maskrcnn.data.interfaces import Dataset

#: So many validation images are sought among so many training images by their content.
MOST_VAL, MOST_TRAIN = 500, 20_000
#: So many bytes at the middle of a file are read before two of one size are compared as a whole.
_PIECE = 4096
#: So many files are read so far, and so many pairs compared as a whole.
MOST_PIECES, MOST_COMPARED = 4000, 100


@DOUBTS.register("split")
def _of_a_run(dataset: Dataset, train: Dataset | None) -> Iterable[Doubt]:
    if not isinstance(dataset, CocoDataset) or not isinstance(train, CocoDataset) or dataset is train:
        return []
    return filter(None, [repeated_split_doubt(train, dataset)])


def repeated_split_doubt(train: CocoDataset, val: CocoDataset) -> Doubt | None:
    """Validation images that are training images too: the same file, or a file of the same content."""
    by_name = dict(zip(_paths(train), _places(train), strict=True))
    same = {
        place: by_name[path] for path, place in zip(_paths(val), _places(val), strict=True) if path in by_name
    }
    words = "is image"
    sought = len(val)
    if not same:
        annotated = np.unique(val.index.images)  # empty pictures are alike without being the same
        candidates = spread(np.intersect1d(annotated, _places(val)), MOST_VAL)
        same = _same_content(train, val, candidates.tolist())
        words, sought = "has the bytes of image", len(candidates)
    if not same:
        return None
    return Doubt(
        kind="val repeats train",
        where=str(val.annotation_file),
        what=f"validation images that are training images ({train.annotation_file}) too",
        count=len(same),
        total=sought,
        of="images" if sought == len(val) else "images looked at",
        ids=tuple(int(val.index.image_ids[p]) for p in list(same)[:NAMED]),
        names=few(
            f"image {val.index.image_ids[p]} {words} {train.index.image_ids[q]}" for p, q in same.items()
        ),
        every=tuple(int(val.index.image_ids[p]) for p in same),
        others=tuple(int(train.index.image_ids[q]) for q in same.values()),
        cost="the figures will say how well they are remembered",
        advice="give data.val images that are not in data.train",
    )


def _same_content(train: CocoDataset, val: CocoDataset, candidates: list[int]) -> dict[int, int]:
    """By place of a validation image, that of the training image that it equals byte for byte."""
    sizes: dict[int, list[tuple[int, Path]]] = {}
    for place in candidates:
        path = image_path(val.images, val.index.info(place).file_name)
        if (size := file_size(path)) > 0:
            sizes.setdefault(size, []).append((place, path))
    alike: dict[int, list[tuple[int, Path]]] = {}
    for place in spread(np.asarray(_places(train)), MOST_TRAIN).tolist():
        path = image_path(train.images, train.index.info(place).file_name)
        if (size := file_size(path)) in sizes:
            alike.setdefault(size, []).append((place, path))
    same: dict[int, int] = {}
    pieces, compared = 0, 0
    for size, others in alike.items():
        if pieces + len(sizes[size]) + len(others) > MOST_PIECES:
            continue  # files without compression are all of one size
        pieces += len(sizes[size]) + len(others)
        known = {_piece(path, size): (place, path) for place, path in others}
        for place, path in sizes[size]:
            match = known.get(_piece(path, size))
            if match is None or compared >= MOST_COMPARED:
                continue
            compared += 1
            with contextlib.suppress(OSError):
                if filecmp.cmp(path, match[1], shallow=False):
                    same[place] = match[0]
    return same


def _piece(path: Path, size: int) -> bytes:
    """A digest of the file's middle; its name's where it cannot be read."""
    try:
        with open_image(path) as file:
            file.seek(max(size // 2 - _PIECE // 2, 0))
            return hashlib.blake2b(file.read(_PIECE)).digest()
    except OSError:
        return os.fsencode(path)


def _places(dataset: CocoDataset) -> list[int]:
    places: list[int] = dataset.kept.tolist()
    return places


def _paths(dataset: CocoDataset) -> list[str]:
    own = normal_names(dataset.index)
    folder = os.path.realpath(dataset.images)
    return [os.path.normpath(os.path.join(folder, own[p])) for p in _places(dataset)]  # noqa: PTH118 - many
