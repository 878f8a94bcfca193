"""The images of a report's gallery: which, and what is drawn over each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from maskrcnn.data import Dataset
from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.formats.checks import check_mask
from maskrcnn.errors import DataError, plural
from maskrcnn.evaluation.report.figures import OUTCOMES, Outcomes, ReportFigures
from maskrcnn.inference.records import Result
from maskrcnn.run.thresholds import PLAIN_SCORE
from maskrcnn.structures import rle
from maskrcnn.structures.ground_truth import GroundTruth
from maskrcnn.viz.gallery import Layer, Overlay, Shot, shot

#: Images of a gallery, and bytes that all of them may take: with the figures a page stays under 25 MB.
MOST_IMAGES, MOST_BYTES = 200, 21_000_000
#: COCO's bounds of small and medium objects, square pixels.
_SMALL, _MEDIUM = 32.0**2, 96.0**2
#: The order in which objects are drawn and kept where there are too many.
_FIRST = [
    "lost",
    "gained",
    "wrong",
    "background",
    "class",
    "both",
    "location",
    "duplicate",
    "missed",
    "right",
    "met",
    "ignored",
    "crowd",
]
#: Types of likely label errors, as the page calls them.
LABEL_ERRORS = {
    "unlabelled": "found, not labelled",
    "unfound": "labelled, not found",
    "class": "another class",
}


@dataclass(frozen=True)
class JudgedRun:
    """An evaluation and what became of each of its predictions.

    records: the results, in the order that ``outcomes`` counts them in.
    scores: class name -> the score from which its predictions are drawn.
    """

    dataset: Dataset
    truth: GroundTruth
    records: Sequence[Result]
    outcomes: Outcomes
    scores: Mapping[str, float]

    def outlines(self, image_id: int) -> list[Overlay]:
        """What is true and what was found on an image: errors first, each kind by falling score."""
        return ordered([*self.found(image_id), *self.true(image_id)])

    def _least(self, label: int) -> float:
        names = self.truth.category_names
        return self.scores.get(names[label], PLAIN_SCORE) if label >= 0 else PLAIN_SCORE

    def _name(self, label: int) -> str:
        return self.truth.category_names[label] if label >= 0 else "a class that the data have not"

    def found(self, image_id: int, layer: Layer = "found") -> Iterator[tuple[float, Overlay]]:
        """(order, outline) of each prediction of the score of its class and better."""
        o, truth = self.outcomes, self.truth
        height, width = truth.sizes[truth.image_places[image_id]].tolist()
        for d in np.flatnonzero(o.image == image_id).tolist():
            label, score = int(o.label[d]), float(o.score[d])
            if score < self._least(label):
                continue
            record, kind = self.records[int(o.result[d])], OUTCOMES[int(o.outcome[d])]
            shape, area = _drawn(record, height, width)
            text = f"{self._name(label)} {score:.2f}: {kind}"
            if o.truth[d] >= 0:
                text += f", IoU {o.iou[d]:.2f} with {self._name(int(o.object_label[o.truth[d]]))}"
            yield -score, Overlay(shape, layer, kind, label, _size(area), text)

    def true(self, image_id: int) -> Iterator[tuple[float, Overlay]]:
        """(order, outline) of each object, crowds too."""
        o, truth = self.outcomes, self.truth
        place = truth.image_places[image_id]
        rows = {int(truth.annotation_ids[i]): i for i in np.flatnonzero(truth.images == place).tolist()}
        height, width = truth.sizes[place].tolist()
        for g in np.flatnonzero(o.object_image == image_id).tolist():
            i = rows[int(o.annotation[g])]
            d, label = int(o.found[g]), int(o.object_label[g])
            met = d >= 0 and o.score[d] >= self._least(int(o.label[d]))
            kind = "crowd" if o.crowd[g] else "met" if met else "missed"
            shape = {"size": [height, width], "counts": truth.mask(i)} if truth.has_masks else truth.boxes[i]
            told = f"labelled {self._name(label)}, annotation {o.annotation[g]}: {kind}"
            if kind == "missed":
                told += f", best IoU {o.best[g]:.2f}"
            yield 0.0, Overlay(shape, "truth", kind, label, _size(truth.area(i)), told)


def ordered(drawn: Sequence[tuple[float, Overlay]]) -> list[Overlay]:
    """By how much they matter, each kind by the number beside it."""
    return [outline for _, outline in sorted(drawn, key=lambda d: (_FIRST.index(d[1].kind), d[0]))]


def _drawn(record: Mapping[str, Any], height: int, width: int) -> tuple[Any, float]:
    """A prediction's mask, or its box where that is all that is sound, and its area in square pixels."""
    try:
        mask = check_mask(record, height, width, []).encode(height, width)
        return mask, rle.area(mask)
    except FaultError:
        return record["bbox"], float(record["bbox"][2] * record["bbox"][3])


def _size(area: float) -> str:
    return "s" if area < _SMALL else "m" if area <= _MEDIUM else "l"


def rankings(figures: ReportFigures) -> dict[str, list[int]]:
    """Image ids by what is to be looked at, the most telling first; those that name none are left out."""
    worst = [entry["image_id"] for entry in figures.images_ranked]
    empty = (figures.background or {}).get("worst", ())
    groups = {
        "worst images": worst,
        "best images": worst[::-1],
        "most confident errors": [e["image_id"] for e in figures.confident_errors],
        **{
            f"likely label errors: {told}": [e["image_id"] for e in figures.label_errors if e["type"] == kind]
            for kind, told in LABEL_ERRORS.items()
        },
        "found on images without objects": [e["image_id"] for e in empty],
    }
    return {name: list(dict.fromkeys(ids)) for name, ids in groups.items() if ids}


def chosen(groups: Mapping[str, Sequence[int]], most: int) -> list[int]:
    """Image ids in turn from each ranking, until there are ``most``."""
    turns = (i for turn in zip_longest(*groups.values()) for i in turn if i is not None)
    return list(dict.fromkeys(turns))[:most]


def gallery(
    judged: JudgedRun,
    groups: Mapping[str, Sequence[int]],
    told: Mapping[int, str],
    *,
    outlines: Callable[[int], list[Overlay]] | None = None,
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[list[Shot], str, dict[int, str]]:
    """Draw the images.

    Args:
        groups: image ids by ranking, see :func:`rankings`.
        told: what stands below an image, by its id.
        outlines: of an image; None: those of ``judged``.
        tell: called with the number of images that are drawn, and that there are.

    Returns:
        the images, a sentence on what is shown and what is not, and their file names by id.
    """
    dataset, draw = judged.dataset, outlines or judged.outlines
    places = {int(image_id): i for i, image_id in enumerate(np.asarray(dataset.image_ids).tolist())}
    ids = [i for i in chosen(groups, MOST_IMAGES) if i in places]
    ranks = {n: {image_id: k for k, image_id in enumerate(ids)} for n, ids in enumerate(groups.values())}
    shots: list[Shot] = []
    names: dict[int, str] = {}
    used, unread = 0, 0
    for number, image_id in enumerate(ids):
        tell(number, len(ids))
        try:
            raw = dataset.load(places[image_id])
        except DataError:
            unread += 1
            continue
        names[image_id] = raw.info.file_name
        made = shot(
            raw.image,
            draw(image_id),
            title=raw.info.file_name,
            told=told.get(image_id, ""),
            ranks={n: rank[image_id] for n, rank in ranks.items() if image_id in rank},
            room=(MOST_BYTES - used) // (len(ids) - number),
        )
        used += made.bytes
        if used > MOST_BYTES:
            break
        shots.append(made)
    sentence = f"{len(shots)} of {plural(len(places), 'image')}: in turn the first of each list below."
    if unread:
        left_out = ("image cannot be read and is left out", "images cannot be read and are left out")
        sentence += f" {plural(unread, *left_out)}."
    return shots, sentence, names
