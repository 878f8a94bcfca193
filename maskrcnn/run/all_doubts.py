"""All doubts about the data of a run, told once at its start."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from maskrcnn.data import CocoDataset, Dataset
from maskrcnn.data.doctor.doubts import Doubt, class_doubts, trained_classes
from maskrcnn.data.doctor.file_doubts import damage_doubt, page_doubt, repeated_file_doubt
from maskrcnn.data.doctor.mask_doubts import box_doubt, empty_doubt, hole_doubt, polygons, unit_doubt
from maskrcnn.data.doctor.split_doubts import repeated_split_doubt

logger = logging.getLogger(__name__)


def find_doubts(train: Dataset | None, val: Dataset | None) -> list[Doubt]:
    """What is hardly meant in the data that a run reads; of data sets of other kinds than COCO's, nothing.

    Reads the first bytes of some files, and decodes some JPEGs.
    """
    found: list[Doubt] = []
    known = None
    if isinstance(train, CocoDataset):
        found += class_doubts(train.index, training=True, most_images=train.considered)
        found += _of_content(train)
        known = trained_classes(train.index, train.considered)
    if isinstance(val, CocoDataset):
        found += class_doubts(val.index, training=False, most_images=val.considered, known=known)
        found += _of_content(val)
        if isinstance(train, CocoDataset):
            again = repeated_split_doubt(train, val)
            found += [] if again is None else [again]
    return found


def _of_content(dataset: CocoDataset) -> Iterator[Doubt]:
    index = dataset.index
    doubts = [repeated_file_doubt(index), page_doubt(dataset), damage_doubt(dataset)]
    if index.masks:
        parts = polygons(index)
        doubts = [box_doubt(index, parts), empty_doubt(index, parts), hole_doubt(index, parts), *doubts]
    if not any(
        d is not None and d.kind == "box disagrees with mask" for d in doubts
    ):  # which gives the unit too
        doubts = [unit_doubt(index), *doubts]
    return (d for d in doubts if d is not None)


def tell_doubts(train: Dataset | None, val: Dataset | None) -> None:
    """Log each as a warning of one line."""
    for doubt in find_doubts(train, val):
        logger.warning("%s", doubt)
