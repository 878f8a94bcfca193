"""A picture of an example of a finding: the annotation that it is about, or the image with all of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from maskrcnn.data.doctor import Doubt
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import UserError
from maskrcnn.viz.instances import draw_detections
from maskrcnn.viz.labels import Image
from maskrcnn.viz.panels import side_by_side

#: Kinds whose example is an image, with all its annotations drawn.
OF_IMAGES = frozenset(
    {
        "turned by EXIF",
        "gray among colour",
        "palette images",
        "CMYK images",
        "further channels",
        "few bits of 16",
        "damaged images",
        "image twice",
        "val near train",
        "more objects than detections",
        "more objects than proposals",
        "more objects than RoIs",
    }
)


def finding_pictures(doubts: Iterable[Doubt], data: Iterable[Dataset]) -> Iterator[tuple[int, Image]]:
    """The place of each finding of which a picture helps, and the picture."""
    sets = list(data)
    for number, doubt in enumerate(doubts):
        own = next((d for d in sets if str(d.annotation_file) == doubt.where), None)
        if own is None or not doubt.every or not (doubt.images or doubt.kind in OF_IMAGES):
            continue
        try:
            yield number, _example(doubt, own, sets)
        except UserError:  # its image cannot be read, which another finding says
            continue


def _example(doubt: Doubt, dataset: Dataset, sets: list[Dataset]) -> Image:
    if doubt.images:
        image, only = doubt.images[0], doubt.every[0]
        title = f"annotation {only} of image {image}: {doubt.kind}"
        return side_by_side(_picture(dataset, image, only), _picture(dataset, image), titles=(title, "all"))
    picture = _picture(dataset, doubt.every[0])
    title = f"image {doubt.every[0]}: {doubt.kind}"
    if not doubt.others:
        return side_by_side(picture, titles=(title,))
    # What it is like lies in the other data set, where there is one.
    there = sets[0] if doubt.kind == "val near train" else dataset
    other = doubt.others[0]
    return side_by_side(picture, _picture(there, other), titles=(title, f"image {other}"))


def _picture(dataset: Dataset, image_id: int, only: int | None = None) -> Image:
    """An image with its annotations, or with one of them."""
    place = int(np.flatnonzero(np.asarray(dataset.image_ids) == image_id)[0])
    sample = dataset.load(place)
    targets = sample.targets
    if only is not None:
        targets = targets.select(targets.annotation_ids == only)
    return draw_detections(sample.image, targets, dataset.categories.names, show_boxes=True)
