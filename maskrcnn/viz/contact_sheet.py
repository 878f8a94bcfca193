"""A contact sheet: images before and after augmentation on one page in HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from maskrcnn.data.file_names import shown
from maskrcnn.data.transforms.moving import resize_to
from maskrcnn.structures import RawSample, Sample
from maskrcnn.viz.instances import draw_detections
from maskrcnn.viz.pages import data_uri, render
from maskrcnn.viz.tables import Table

#: Of the JPEGs: outlines stay clear, at a tenth of a PNG.
QUALITY = 82
#: Smaller pictures are enlarged by a whole number as far as they stay within the bound.
_ENLARGED_TO = 0.5


@dataclass(frozen=True)
class Picture:
    """One picture of a card: its source (a data URI), its size in pixels, and what stands below it."""

    source: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class Card:
    """An image of the sheet.

    objects: how many it has.  classes: indices of those it has objects of.
    findings: numbers of those that are about it.
    pictures: it as it is stored, then as the network sees it.
    """

    title: str
    told: str
    objects: int
    classes: tuple[int, ...]
    findings: tuple[int, ...]
    pictures: tuple[Picture, ...]


def picture_of(sample: RawSample | Sample, names: Sequence[str], side: int, caption: str) -> Picture:
    """An image with boxes, masks, keypoints and names of classes, its longer side at most ``side`` pixels."""
    raw = sample if isinstance(sample, RawSample) else _as_raw(sample)
    height, width = raw.size
    scale = min(1.0, side / max(height, width))
    raw = resize_to(raw, max(1, round(height * scale)), max(1, round(width * scale)), "area")
    drawn = draw_detections(raw.image, raw.targets, names, show_boxes=True, smallest=int(side * _ENLARGED_TO))
    return Picture(data_uri(drawn, QUALITY), drawn.shape[1], drawn.shape[0], caption)


def sheet_page(
    cards: Sequence[Card],
    *,
    title: str,
    notes: Iterable[str],
    counts: Table,
    names: Sequence[str],
    kinds: Sequence[str],
    findings: Iterable[str],
    transforms: Iterable[str],
) -> str:
    """The page.

    Args:
        notes: sentences above.
        counts: the table of classes.
        names: of the classes.
        kinds: of the findings that cards name by number.
        findings: sentences about all of them.
        transforms: what is done to an image, in order.
    """
    held = [(i, shown(name), sum(i in card.classes for card in cards)) for i, name in enumerate(names)]
    found = [(i, kind, sum(i in card.findings for card in cards)) for i, kind in enumerate(kinds)]
    return render(
        "contact_sheet.html.j2",
        title=shown(title),
        notes=[shown(note) for note in notes],
        classes=[entry for entry in held if entry[2]],
        kinds=[entry for entry in found if entry[2]],
        cards=[
            {
                "title": shown(card.title),
                "told": shown(card.told),
                "objects": card.objects,
                "classes": card.classes,
                "findings": card.findings,
                "kinds": [kinds[number] for number in card.findings],
                "pictures": card.pictures,
            }
            for card in cards
        ],
        counts=counts,
        findings=[shown(finding) for finding in findings],
        transforms=[shown(transform) for transform in transforms],
    )


def _as_raw(sample: Sample) -> RawSample:
    assert sample.targets is not None
    image = np.ascontiguousarray(sample.image.numpy().transpose(1, 2, 0))
    return RawSample(image, sample.info, sample.targets)
