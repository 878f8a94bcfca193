"""Which training images each finding of the doctor is about, and which classes each has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from maskrcnn.data.doctor import Doubt, find_doubts
from maskrcnn.data.doctor.look import Look
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.formats.coco_json import as_id, load_coco
from maskrcnn.data.interfaces import Dataset
from maskrcnn.recipe import Recipe
from maskrcnn.run.examine import missing_doubts, reader_doubts
from maskrcnn.run.fit_doubts import fit_doubts
from maskrcnn.run.recipe_checks import build_without_memory

#: Records of a json that are decoded at a time.
_DECODED = 1000


def train_doubts(recipe: Recipe, dataset: Dataset, look: Look | None, *, fits: bool) -> Iterator[Doubt]:
    """What the doctor finds of the training set."""
    yield from reader_doubts(dataset)
    if look is None:
        yield from missing_doubts(dataset)
    yield from find_doubts(dataset, None, look)
    if fits:
        model = build_without_memory(recipe)
        strides = [] if model.rpn is None else model.rpn.anchors.strides
        yield from fit_doubts(recipe, strides, dataset, training=True)


def places_of(doubt: Doubt, dataset: Dataset) -> frozenset[int]:
    """The images (places in ``dataset``) that a finding is about; none where it is about no single ones."""
    if doubt.images:
        ids: Iterable[int] = doubt.images
    elif doubt.of == "classes":
        truth = dataset.ground_truth()
        labels = [i for i, c in enumerate(truth.category_ids) if c in doubt.ids]
        ids = truth.image_ids[truth.images[np.isin(truth.labels, labels)]].tolist()
    elif any(word in doubt.of for word in ("annotation", "object", "mask", "box")):
        ids = _of_annotations(doubt.every, dataset)
    else:
        ids = doubt.every
    here = _by_id(dataset)
    return frozenset(here[i] for i in ids if i in here)


def objects_by_image(dataset: Dataset) -> dict[int, dict[int, int]]:
    """Objects of each class, by the place of the image that has any."""
    truth = dataset.ground_truth()
    k = max(len(truth.category_ids), 1)
    kept = ~truth.crowds
    pairs, counts = np.unique(truth.images[kept] * k + truth.labels[kept], return_counts=True)
    here = _by_id(dataset)
    found: dict[int, dict[int, int]] = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        place = here.get(int(truth.image_ids[pair // k]))
        if place is not None:
            found.setdefault(place, {})[pair % k] = count
    return found


def _of_annotations(annotations: Sequence[int], dataset: Dataset) -> Iterator[int]:
    """Ids of the images of annotations, of such that were left out, too."""
    wanted, truth = set(annotations), dataset.ground_truth()
    rows = np.flatnonzero(np.isin(truth.annotation_ids, list(wanted)))
    yield from truth.image_ids[truth.images[rows]].tolist()
    wanted -= set(truth.annotation_ids[rows].tolist())
    if not wanted or not isinstance(dataset, CocoDataset):
        return
    records = load_coco(dataset.annotation_file, shown(dataset.annotation_file))["annotations"]
    for start in range(0, len(records), _DECODED):
        for record in records[start : start + _DECODED]:
            image = as_id(record.get("image_id")) if isinstance(record, dict) else None
            if image is not None and as_id(record.get("id")) in wanted:
                yield image


def _by_id(dataset: Dataset) -> dict[int, int]:
    """The place of each image."""
    return {int(image_id): place for place, image_id in enumerate(np.asarray(dataset.image_ids))}
