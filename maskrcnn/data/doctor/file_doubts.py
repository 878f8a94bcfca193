"""Doubts about image files: listed twice, damaged inside, or of several pages.

Files are looked at on bounded samples; only :func:`damage_doubt` decodes any.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np

from maskrcnn.data.doctor import DOUBTS, Doubt
from maskrcnn.data.doctor.doubts import few
from maskrcnn.data.doctor.page_count import SUFFIXES, count_pages
from maskrcnn.data.fault_report import NAMED
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import DataError

#: So many JPEGs, of so many pixels together, are decoded at the start; the loader looks at all it loads.
MOST_DECODED, MOST_PIXELS = 64, 100_000_000
#: So many files are asked for their pages at the start.
MOST_OPENED = 1000
_JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})


@DOUBTS.register("files")
def _of_a_run(dataset: Dataset, _: Dataset | None) -> Iterable[Doubt]:
    if not isinstance(dataset, CocoDataset):
        return []
    return filter(None, (repeated_file_doubt(dataset.index), page_doubt(dataset), damage_doubt(dataset)))


def normal_names(index: AnnotationIndex) -> list[str]:
    """The file name of each image with slashes alone, ``.`` and ``..`` resolved."""
    text, ends = index.names.tobytes(), index.name_ends.tolist()
    names = (text[a:b].decode("utf-8", "surrogateescape") for a, b in pairwise([0, *ends]))
    return [posixpath.normpath(n.replace("\\", "/")) for n in names]


def repeated_file_doubt(index: AnnotationIndex) -> Doubt | None:
    """Files that several image records name."""
    by_name: dict[str, list[int]] = {}
    for place, name in enumerate(normal_names(index)):
        by_name.setdefault(name, []).append(place)
    repeated = {name: places for name, places in by_name.items() if len(places) > 1}
    if not repeated:
        return None
    first = list(repeated.items())[:NAMED]
    annotated = np.bincount(index.images, minlength=len(index)) > 0
    parted = sum(bool(annotated[places].sum() > 1) for places in repeated.values())
    return Doubt(
        kind="file under several ids",
        where=index.source,
        what="image files that are listed under several ids",
        count=len(repeated),
        total=len(by_name),
        of="files",
        ids=tuple(int(index.image_ids[p]) for _, places in first for p in places)[:NAMED],
        names=few(
            f"{printable(name)}: images {' and '.join(str(index.image_ids[p]) for p in places[:NAMED])}"
            for name, places in first
        ),
        every=tuple(int(index.image_ids[p]) for places in repeated.values() for p in places),
        cost=f"the annotations of {parted} of them are parted among their ids, and each id is trained or"
        " judged without the objects of the others",
        advice="give all annotations of a file one image_id, and remove the other records from 'images'",
    )


def damage_doubt(dataset: CocoDataset) -> Doubt | None:
    """JPEGs that decode with a warning, in a sample.  The loader then does not tell them again."""
    jpegs = [i for i in range(len(dataset)) if dataset.path(i).suffix.lower() in _JPEG]
    sample = spread(np.asarray(jpegs, dtype=np.int64), MOST_DECODED)
    pixels = dataset.sizes[sample].astype(np.int64).prod(1).cumsum() if len(sample) else sample
    sample = sample[pixels <= MOST_PIXELS]
    found: list[tuple[int, str]] = []
    for i in sample.tolist():
        with contextlib.suppress(DataError):  # the loader will say so
            found += [(i, note.words) for note in dataset.load(i).notes if note.kind == "damaged"]
    if not found:
        return None
    dataset.report.told("damaged", [int(dataset.image_ids[i]) for i, _ in found])
    return doubt_of_files(
        dataset,
        {i: f"image {int(dataset.image_ids[i])}: {printable(dataset.path(i).name)}" for i, _ in found},
        len(sample),
        "damaged images",
        "JPEG files that are damaged inside and decode all the same",
        f"the decoder says {found[0][1]!r}; parts of them may be gray or shifted",
        "restore the files, or remove their records",
    )


def page_doubt(dataset: CocoDataset) -> Doubt | None:
    """Animated or many-page files, in a sample.  The loader then does not tell them again."""
    if dataset.reading.pages != "first":
        return None
    able = [i for i in range(len(dataset)) if dataset.path(i).suffix.lower() in SUFFIXES]
    sample = spread(np.asarray(able, dtype=np.int64), MOST_OPENED).tolist()
    found = [(i, pages) for i in sample if (pages := count_pages(dataset.path(i))) > 1]
    if not found:
        return None
    dataset.report.told("pages", [int(dataset.image_ids[i]) for i, _ in found])
    return doubt_of_files(
        dataset,
        {i: f"{printable(dataset.path(i).name)}: {pages}" for i, pages in found},
        len(sample),
        "several pages",
        "image files with several frames or pages",
        "the first alone is read",
        "if the others are annotated too, store each as a file of its own (of TIFFs, data.pages may say what"
        " pages are)",
    )


def doubt_of_files(
    dataset: CocoDataset, names: Mapping[int, str], looked: int, kind: str, what: str, cost: str, advice: str
) -> Doubt:
    """A doubt about files, by their place in the data set, of ``looked`` that were looked at."""
    return Doubt(
        kind=kind,
        where=str(dataset.annotation_file),
        what=what,
        count=len(names),
        total=looked,
        of="files" if looked == len(dataset) else "files looked at",
        ids=tuple(int(dataset.image_ids[i]) for i in list(names)[:NAMED]),
        names=few(names.values()),
        cost=cost,
        advice=advice,
        every=tuple(int(dataset.image_ids[i]) for i in names),
    )


def spread(
    values: np.ndarray[tuple[int], np.dtype[np.int64]], most: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """At most ``most`` of them, spread evenly."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).astype(np.int64)]


def printable(name: str) -> str:
    """A file name for a message, whatever bytes it is made of."""
    return name.encode("utf-8", "replace").decode("utf-8")
