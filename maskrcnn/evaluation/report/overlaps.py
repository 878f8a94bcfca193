"""Detections and objects of one evaluation as columns, and how far they overlap, whatever their classes.

Legend: N = images that take part, D = detections, G = objects, crowds among them, P = pairs of a detection
and an object of one image that overlap by :data:`LEAST` or more, K = classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.backends import Case, category_places
from maskrcnn.structures.ground_truth import GroundTruth

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Pairs below this IoU are not kept: TIDE's threshold of background, the lowest that any figure asks for.
LEAST = 0.1
#: Images between two calls of a progress function.
_STEP = 50


@dataclass(frozen=True, eq=False)
class Pairs:
    """Overlaps, by rising detection and then object.

    found, wanted: int64 [P], places among the detections and objects.  iou: float64 [P]; for a crowd the part
    of the detection that lies in it.
    """

    found: Integers
    wanted: Integers
    iou: Floats

    def __len__(self) -> int:
        return len(self.iou)

    def select(self, which: Flags | Integers) -> Pairs:
        """Some of them."""
        return Pairs(self.found[which], self.wanted[which], self.iou[which])

    def best(self, count: int, *, last: bool = False) -> Integers:
        """int64 [count]: for each of ``count`` detections its pair of the highest IoU, -1 without one.

        Of several the first, or the last.
        """
        order = np.lexsort((np.arange(len(self)) * (1 if last else -1), self.iou, self.found))
        out = np.full(count, -1, dtype=np.int64)
        out[self.found[order]] = order  # the last assignment stays
        return out


@dataclass(frozen=True, eq=False)
class Overlaps:
    """One kind of evaluation of boxes or masks.

    truth: what was read.  kind: bbox or segm.  image_ids: int64 [N], rising.

    Detections by image, then falling score (of one score in the order of the results):
    result: int64 [D], place in the list of results.  row: int64 [D], place among the columns that were read.
    image: int64 [D], places among the N.  label: int64 [D], places among the classes; -1 for others.
    score, area: float64 [D].  rank: int64 [D], 0 for the best of its image and class.

    Objects by image, then in the order of the file:
    annotation: int64 [G], places among the truth's annotations.  object_image, object_label: int64 [G].
    object_area: float64 [G].  crowd: bool [G].
    """

    truth: GroundTruth
    kind: str
    image_ids: Integers
    result: Integers
    row: Integers
    image: Integers
    label: Integers
    score: Floats
    area: Floats
    rank: Integers
    annotation: Integers
    object_image: Integers
    object_label: Integers
    object_area: Floats
    crowd: Flags
    pairs: Pairs

    @property
    def classes(self) -> int:
        """K."""
        return len(self.truth.category_ids)

    @cached_property
    def same_class(self) -> Flags:
        """bool [P]."""
        return np.asarray(self.label[self.pairs.found] == self.object_label[self.pairs.wanted])

    @cached_property
    def of_crowd(self) -> Flags:
        """bool [P], pairs with a crowd."""
        return self.crowd[self.pairs.wanted]

    def only(self, which: Flags) -> Overlaps:
        """Without the detections that ``which`` [D] leaves out."""
        place = np.cumsum(which) - 1
        kept = self.pairs.select(which[self.pairs.found])
        image, label = self.image[which], self.label[which]
        return replace(
            self,
            **{name: getattr(self, name)[which] for name in ("result", "row", "score", "area")},
            image=image,
            label=label,
            rank=ranks(image, label),
            pairs=replace(kept, found=place[kept.found]),
        )

    def with_labels(self, label: Integers) -> Overlaps:
        """The same detections under other classes [D]."""
        return replace(self, label=label, rank=ranks(self.image, label))


def measure(case: Case, progress: Callable[[float], None] = lambda share: None) -> Overlaps:
    """The columns and overlaps of an evaluation of boxes or masks.

    Args:
        progress: told now and then which share of the images is done.
    """
    truth, found = case.truth, case.found
    place = np.full(len(truth.image_ids), -1, dtype=np.int64)
    place[case.images] = np.arange(len(case.images))
    annotation = case.annotations
    annotation = annotation[np.argsort(truth.images[annotation], kind="stable")]
    image = place[found.images]
    row = np.lexsort((-found.scores, image))  # stable
    image = image[row]
    label = category_places(case)[row] - 1
    label[label == len(truth.category_ids)] = -1
    object_image, crowd = place[truth.images[annotation]], truth.crowds[annotation]
    return Overlaps(
        truth=truth,
        kind=case.iou_type,
        image_ids=truth.image_ids[case.images],
        result=found.records[row],
        row=row,
        image=image,
        label=label,
        score=found.scores[row],
        area=case.areas[row],
        rank=ranks(image, label),
        annotation=annotation,
        object_image=object_image,
        object_label=truth.labels[annotation],
        object_area=np.array([truth.area(i) for i in annotation.tolist()], dtype=np.float64),
        crowd=crowd,
        pairs=_pairs(case, row, image, annotation, object_image, progress),
    )


def ranks(image: Integers, label: Integers) -> Integers:
    """int64 [D]: how many of the same image and class stand before each."""
    order = np.lexsort((label, image))
    key = np.stack((image[order], label[order]))
    begins = np.ones(len(order), dtype=np.bool_)
    begins[1:] = (key[:, 1:] != key[:, :-1]).any(axis=0)
    starts = np.flatnonzero(begins)
    out = np.empty(len(order), dtype=np.int64)
    out[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return out


def _pairs(
    case: Case,
    row: Integers,
    image: Integers,
    annotation: Integers,
    object_image: Integers,
    progress: Callable[[float], None],
) -> Pairs:
    truth, boxes, count = case.truth, case.boxes, len(case.images)
    bounds = np.arange(count + 1)
    first, start = np.searchsorted(image, bounds), np.searchsorted(object_image, bounds)
    parts: list[Pairs] = []
    for n in np.flatnonzero((np.diff(first) > 0) & (np.diff(start) > 0)).tolist():
        mine, wanted = row[first[n] : first[n + 1]], annotation[start[n] : start[n + 1]]
        crowds = truth.crowds[wanted].astype(np.uint8).tolist()
        if case.iou_type == "bbox":
            iou = coco_mask.iou(boxes[mine], truth.boxes[wanted], crowds)
        else:
            assert case.found.masks is not None
            size = truth.sizes[case.images[n]].tolist()
            codes = [{"size": size, "counts": truth.mask(i)} for i in wanted.tolist()]
            iou = coco_mask.iou([case.found.masks[i] for i in mine.tolist()], codes, crowds)
        at, to = np.nonzero(iou >= LEAST)
        parts.append(Pairs(at + first[n], to + start[n], iou[at, to]))
        if n % _STEP == 0:
            progress(n / count)
    progress(1.0)
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Pairs(none, none, np.zeros(0))
    return Pairs(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("found", "wanted", "iou")))
