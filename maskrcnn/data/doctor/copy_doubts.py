"""Doubts about images that are there several times: the same pixels, or nearly the same in train and val.

Legend: N, M = images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from maskrcnn.data.doctor import THOROUGH, Doubt
from maskrcnn.data.doctor.file_doubts import doubt_of_files, normal_names, printable
from maskrcnn.data.doctor.look import ImageFacts, Look, installed
from maskrcnn.data.doctor.split_doubts import repeated_split_doubt
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.interfaces import Dataset

#: Hashes of images that are one picture, saved or scaled otherwise, differ in at most so many of 64 bits
#: (Zauner 2010, section 7.2, puts the DCT hash's threshold lower than a fifth of them).
MOST_BITS = 6
#: And their thumbnails agree: the least correlation of gray values.
LEAST_CORRELATION = 0.98
#: Hashes compared at once.
_AT_ONCE = 512


@THOROUGH.register("copies")
def _of_a_run(dataset: Dataset, train: Dataset | None, look: Look) -> Iterable[Doubt]:
    if not isinstance(dataset, CocoDataset):
        return []
    found = [copy_doubt(dataset, look.facts(dataset))]
    if isinstance(train, CocoDataset) and train is not dataset:
        if not installed("imagehash"):
            look.skip(
                "near-duplicates across training and validation (they need pip install 'maskrcnn[doctor]')"
            )
        found.append(leak_doubt(train, dataset, look.facts(train), look.facts(dataset)))
    return filter(None, found)


def copies(dataset: CocoDataset, facts: Sequence[ImageFacts]) -> list[list[int]]:
    """Groups of places of images whose pixels are the same, of files of other names."""
    names = normal_names(dataset.index)
    groups: dict[tuple[bytes, int, int], list[int]] = {}
    for i, fact in enumerate(facts):
        if fact.digest:
            height, width = dataset.sizes[i].tolist()
            groups.setdefault((fact.digest, height, width), []).append(i)
    return [
        group
        for group in groups.values()
        if len(group) > 1 and len({names[int(dataset.kept[i])] for i in group}) > 1
    ]


def copy_doubt(dataset: CocoDataset, facts: Sequence[ImageFacts]) -> Doubt | None:
    """Images that are another one of their data set, pixel by pixel."""
    pairs = {i: first for first, *others in copies(dataset, facts) for i in others}
    if not pairs:
        return None
    doubt = doubt_of_files(
        dataset,
        {i: f"image {_id(dataset, i)} is image {_id(dataset, first)}" for i, first in pairs.items()},
        len(dataset),
        "image twice",
        "images with the very pixels of another one of another name",
        "they count twice; where only one is annotated, the objects of the other are taught to be background",
        "keep one of each, with all annotations",
    )
    return replace(doubt, others=tuple(_id(dataset, first) for first in pairs.values()))


def leak_doubt(
    train: CocoDataset,
    val: CocoDataset,
    of_train: Sequence[ImageFacts],
    of_val: Sequence[ImageFacts],
) -> Doubt | None:
    """Validation images whose pixels, or nearly, are those of a training image."""
    known = repeated_split_doubt(train, val)  # by name or by bytes
    told = set() if known is None else set(known.every)
    by_digest = {fact.digest: i for i, fact in enumerate(of_train) if fact.digest}
    pairs = {i: by_digest[f.digest] for i, f in enumerate(of_val) if f.digest in by_digest}
    pairs = near(of_train, of_val) | pairs
    pairs = {i: j for i, j in sorted(pairs.items()) if _id(val, i) not in told}
    if not pairs:
        return None
    doubt = doubt_of_files(
        val,
        {
            i: f"image {_id(val, i)} looks like {_id(train, j)} ({printable(train.path(j).name)})"
            for i, j in pairs.items()
        },
        len(val),
        "val near train",
        f"validation images that look like training images ({train.annotation_file})",
        "the figures will say how well they are remembered",
        "look at one pair; give data.val images of other scenes (maskrcnn split keeps groups together)",
    )
    return replace(doubt, others=tuple(_id(train, j) for j in pairs.values()))


def near(a: Sequence[ImageFacts], b: Sequence[ImageFacts]) -> dict[int, int]:
    """By place in ``b`` [M] the place of the most alike in ``a`` [N], where there is one alike."""
    mine = np.array([i for i, f in enumerate(a) if f.hash >= 0], dtype=np.int64)
    theirs = np.array([i for i, f in enumerate(b) if f.hash >= 0], dtype=np.int64)
    if not len(mine) or not len(theirs):
        return {}
    codes = _signs([a[i].hash for i in mine.tolist()])
    found: dict[int, int] = {}
    for start in range(0, len(theirs), _AT_ONCE):
        part = theirs[start : start + _AT_ONCE]
        apart = (64 - _signs([b[i].hash for i in part.tolist()]) @ codes.T) / 2  # bits that differ
        for row in np.flatnonzero(apart.min(1) <= MOST_BITS).tolist():
            alike = mine[np.flatnonzero(apart[row] <= MOST_BITS)].tolist()
            best = max(alike, key=lambda i: _correlation(a[i].thumb, b[int(part[row])].thumb))
            if _correlation(a[best].thumb, b[int(part[row])].thumb) >= LEAST_CORRELATION:
                found[int(part[row])] = best
    return found


def _signs(codes: Sequence[int]) -> npt.NDArray[np.float32]:
    """Bits as -1 and 1, float32 [n, 64]: products of two count the bits that agree less those that differ."""
    bits = np.unpackbits(np.array(codes, dtype=">u8").view(np.uint8).reshape(-1, 8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def _correlation(a: bytes, b: bytes) -> float:
    """Of two thumbnails' gray values; 0 where one has no contrast."""
    x, y = (np.frombuffer(t, dtype=np.uint8).astype(np.float64) for t in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / size if size else 0.0


def _id(dataset: CocoDataset, i: int) -> int:
    return int(dataset.image_ids[i])
