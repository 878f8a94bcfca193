"""The image files of a data set before they are needed: all there, and of the sizes that the json says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maskrcnn.data import Dataset
from maskrcnn.data.file_names import shown
from maskrcnn.data.image_files import longest_gap, missing_files, no_file
from maskrcnn.data.image_header import read_header
from maskrcnn.data.loader import MAX_REPLACEMENTS
from maskrcnn.errors import DataError, few, plural
from maskrcnn.run.preflight import CHECKS, Finding, Start

#: Images whose size is compared with the json's before the start; the others are when they are read.
_SAMPLED = 64
#: Missing ones of which it is asked what is there instead; more are not named.
_ASKED = 5


@CHECKS.register("images")
def check_images(start: Start) -> Iterator[Finding]:
    """Look for the files of the data set, and at the first bytes of some of them.

    A data set without a method ``path(index) -> Path`` is not looked at.  In training the loader replaces
    unreadable images, of at most ``MAX_REPLACEMENTS`` in a row.
    """
    key, dataset = start.key, start.dataset
    path_of = getattr(dataset, "path", None)
    if path_of is None:
        return
    paths = [Path(path_of(i)) for i in range(len(dataset))]
    missing = missing_files(paths)
    if missing:
        yield _missing(key, dataset, [paths[i] for i in missing], missing, start.training)
    gone = set(missing)
    yield from _sizes(key, dataset, paths, [i for i in range(len(paths)) if i not in gone])


def _missing(key: str, dataset: Dataset, paths: list[Path], missing: list[int], replace: bool) -> Finding:
    instead = {path: f", but {kind}" for path in paths[:_ASKED] if (kind := no_file(path))}
    named = few(
        f"{shown(path)} (image {int(dataset.image_ids[i])}{instead.get(path, '')})"
        for path, i in zip(paths, missing, strict=True)
    )
    what = f"{key}: {len(missing)} of {plural(len(dataset), 'image file')} are not there: {named}"
    if any("\\" in path.name for path in paths):
        what += "; file names of this json use backslashes: write / in their place"
    everything = len(missing) == len(dataset)
    if everything or dataset.on_error != "skip":
        advice = f"correct {key}.images or the file names in {dataset.annotation_file}"
        if not everything:
            where = "data" if dataset.on_error is None else key
            advice = (
                f"restore them, take their records out of {dataset.annotation_file}, or set {where}.on_error"
                " to skip to go on without them"
            )
        return DataError(f"{what}; {advice}")
    gap = longest_gap(missing, len(dataset))
    if replace and gap >= MAX_REPLACEMENTS:
        return DataError(
            f"{what}; {gap} of them follow each other, and training passes over at most"
            f" {MAX_REPLACEMENTS - 1} in a row: take their records out of {dataset.annotation_file}"
        )
    return f"{what}; passed over (on_error: skip)"


def _sizes(key: str, dataset: Dataset, paths: list[Path], there: list[int]) -> Iterator[Finding]:
    """Compare the sizes of some images by their headers, and read those that seem wrong to be sure."""
    if not there:
        return
    exif = bool(getattr(dataset, "exif", True))
    places = np.unique(np.linspace(0, len(there) - 1, min(_SAMPLED, len(there))).astype(int))
    sentences: list[str] = []
    for i in (there[place] for place in places.tolist()):
        header = read_header(paths[i])
        if header is None or header.size(exif) == tuple(dataset.sizes[i].tolist()):
            continue
        try:
            dataset.load(i)
        except DataError as error:
            sentences.append(str(error))
    if not sentences:
        return
    what = (
        f"{key}: {len(sentences)} of {plural(len(places), 'image')} looked at have another size than"
        " the json says"
    )
    if dataset.on_error == "skip":
        yield f"{what}, as: {sentences[0]} (passed over: on_error: skip)"
    else:
        yield DataError(f"{what}, as: {sentences[0]}")
