"""Doubts about boxes that disagree with their masks or are in the wrong unit, masks of nothing, filled holes.

Vectorised over the columns of an :class:`AnnotationIndex`: 860,000 annotations take seconds.

Legend: A = annotations, P = polygons of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.data.doctor import DOUBTS, Doubt
from maskrcnn.data.fault_report import NAMED
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.data.interfaces import Dataset
from maskrcnn.structures import rle
from maskrcnn.structures.masks import polygon_area

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: A box and its mask's box disagree below this IoU, unless no side is further off than ``SLACK`` pixels.  On
#: COCO's own files the least is 0.91 (tests/data/doctor/test_mask_doubts.py measures it again).
LEAST_IOU = 0.5
SLACK = 2.0
#: A reading of the boxes explains one that disagrees from this IoU on.
EXPLAINED = 0.9
#: Of the masks that are run-length codes so many are looked at, spread over the file.
MOST_CODES = 5000
#: A polygon is compared with so many neighbours of its annotation on either side.
MOST_NEIGHBOURS = 32
#: So many pairs of polygons, whose boxes lie one in the other, are looked at point by point.
MOST_PAIRS = 2000
#: COCO's own files hold one polygon inside another in one of 600 masks, a part drawn twice and no hole:
#: nested polygons are told from this share on, or where the stated areas say that they are holes.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Polygons:
    """All polygons of an index.

    owners: int64 [P], the annotation of each, rising.
    boxes: float64 [P, 4] xyxy of the points, pixels.
    points: the points of polygon p, float64 [n, 2].
    """

    owners: Integers
    boxes: Floats
    points: Callable[[int], Floats]


@DOUBTS.register("masks")
def _of_a_run(dataset: Dataset, _: Dataset | None) -> Iterable[Doubt]:
    if not isinstance(dataset, CocoDataset):
        return []
    index, found = dataset.index, list[Doubt | None]()
    if index.masks:
        parts = polygons(index)
        found = [box_doubt(index, parts), empty_doubt(index, parts), hole_doubt(index, parts)]
    if not found or found[0] is None:  # which gives the unit too
        found.insert(0, unit_doubt(index))
    return filter(None, found)


def polygons(index: AnnotationIndex) -> Polygons:
    """Owners and boxes of all polygons."""
    sizes = 2 * index.polygon_sizes.astype(np.int64)
    owners = np.repeat(np.arange(len(index.images)), np.diff(index.polygon_ends, prepend=0))
    boxes = np.zeros((len(sizes), 4))
    starts = np.zeros(len(sizes), dtype=np.int64)
    stores = index.polygon_stores()
    for here, values, unit in stores:
        mine = np.flatnonzero(here[owners])
        if not len(mine):
            continue
        ends = np.cumsum(sizes[mine])
        starts[mine] = ends - sizes[mine]
        for axis in (0, 1):
            line = np.ascontiguousarray(values[axis::2])
            boxes[mine, axis] = np.minimum.reduceat(line, starts[mine] // 2) / unit
            boxes[mine, axis + 2] = np.maximum.reduceat(line, starts[mine] // 2) / unit

    def points(p: int) -> Floats:
        values, unit = next((v, u) for here, v, u in stores if here[owners[p]])
        flat: Floats = values[starts[p] : starts[p] + sizes[p]] / unit
        return flat.reshape(-1, 2)

    return Polygons(owners, boxes, points)


def mask_boxes(index: AnnotationIndex, parts: Polygons) -> tuple[Integers, Floats]:
    """Annotations whose mask was looked at, int64 [n], and the masks' boxes in the image, float64 [n, 4].

    Those of polygons are their points'; of run-length codes a sample is looked at.  A mask of nothing has a
    box without area.
    """
    drawn, first = np.unique(parts.owners, return_index=True)
    boxes = np.zeros((len(drawn), 4))
    if len(drawn):
        boxes[:, :2] = np.minimum.reduceat(parts.boxes[:, :2], first)
        boxes[:, 2:] = np.maximum.reduceat(parts.boxes[:, 2:], first)
    coded = np.flatnonzero(index.run_lengths())
    coded = (
        coded[np.unique(np.linspace(0, len(coded) - 1, MOST_CODES).astype(np.int64))] if len(coded) else coded
    )
    encode = index.ground_truth().encode
    assert encode is not None
    others = rle.boxes([encode(row) for row in coded.tolist()]) if len(coded) else np.zeros((0, 4))
    others[:, 2:] += others[:, :2]
    rows = np.concatenate([drawn, coded])
    return rows, _clipped(np.concatenate([boxes, others]), image_sides(index, rows))


def _have_area(boxes: Floats) -> Flags:
    found: Flags = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    return found


def box_doubt(index: AnnotationIndex, parts: Polygons) -> Doubt | None:
    """Boxes that disagree with their masks, with the reading that would make them agree."""
    rows, masks = mask_boxes(index, parts)
    drawn = _have_area(masks)
    rows, masks = rows[drawn], masks[drawn]
    sides = image_sides(index, rows)
    boxes = index.boxes[rows]
    boxes[:, 2:] += boxes[:, :2]
    boxes = _clipped(boxes, sides)
    bad = (ious(boxes, masks) < LEAST_IOU) & (np.abs(boxes - masks).max(1) > SLACK)
    if not bad.any():
        return None
    reason = _reason(boxes[bad], masks[bad], sides[bad])
    return doubt_of_annotations(
        index,
        np.sort(rows[bad]),
        len(bad),
        "box disagrees with mask",
        "boxes that disagree with their masks",
        f"{reason}the RPN and the box head learn them, the mask head the masks",
        "a 'bbox' is [x of the left side, y of the upper side, width, height] in pixels;"
        " write it so, or leave it out: then it is taken from the mask",
    )


def empty_doubt(index: AnnotationIndex, parts: Polygons) -> Doubt | None:
    """Masks of nothing beside boxes of something: points or lines as polygons, codes without a pixel."""
    every, masks = mask_boxes(index, parts)
    sides = index.boxes[every, 2:].max(1, initial=0)
    rows = np.sort(every[~_have_area(masks) & (sides > SLACK)])
    if not len(rows):
        return None
    return doubt_of_annotations(
        index,
        rows,
        len(every),
        "mask of nothing",
        "masks that cover nothing of their image",
        "they train, and are judged, as objects without a pixel",
        "draw their masks, or remove the annotations",
    )


def unit_doubt(index: AnnotationIndex) -> Doubt | None:
    """Boxes that lie within the first pixel, most of them: fractions of the image where pixels belong."""
    rows = np.flatnonzero((index.boxes[:, :2] + index.boxes[:, 2:] <= 1).all(1))
    if not 2 * len(rows) > len(index.images):
        return None
    return doubt_of_annotations(
        index,
        rows,
        len(index.images),
        "boxes within a pixel",
        "boxes that lie within the first pixel of their image",
        "they look normalised to [0, 1], and train as objects of a pixel",
        "'bbox' and 'segmentation' are in pixels: multiply x by the width of the image, and y by its height",
    )


def hole_doubt(index: AnnotationIndex, parts: Polygons) -> Doubt | None:
    """Polygons that lie wholly inside another of their annotation: COCO's union fills them."""
    inner, outer = _nested(parts)
    # Evenly spread, where there are too many to look at.
    chosen = np.unique(np.linspace(0, max(len(inner) - 1, 0), MOST_PAIRS).astype(np.int64))[: len(inner)]
    nested = [
        int(inner[k])
        for k in chosen.tolist()
        if all_inside(parts.points(int(inner[k])), parts.points(int(outer[k])))
    ]
    rows = np.unique(parts.owners[nested])
    masks = len(np.unique(parts.owners))
    expected = len(rows) * len(inner) / max(len(chosen), 1)
    if not len(rows) or (expected < LEAST_SHARE * masks and not _stated_holes(index, parts, nested)):
        return None
    limited = len(inner) > MOST_PAIRS
    return doubt_of_annotations(
        index,
        rows,
        masks,
        "hole as polygon",
        "masks with a polygon inside another of theirs" + (", at least" if limited else ""),
        "a COCO mask is the union of its polygons, so the inner one is filled",
        "if it is meant as a hole, give the mask as RLE, or as one polygon that runs round the hole",
        of="masks of polygons",
    )


def all_inside(inner: Floats, outer: Floats) -> bool:
    """Whether all points [n, 2] lie inside the polygon [m, 2] or on its edge, by the even-odd rule."""
    x, y = inner[:, :1], inner[:, 1:]
    a, b = outer, np.roll(outer, -1, axis=0)
    spans = (a[:, 1] > y) != (b[:, 1] > y)  # [n, m]
    rise = np.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
    crossing = a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / rise
    inside = ((spans & (x < crossing)).sum(1) % 2).astype(bool)
    if inside.all():
        return True
    cross = (b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0])
    within = ((x - a[:, 0]) * (x - b[:, 0]) <= 0) & ((y - a[:, 1]) * (y - b[:, 1]) <= 0)
    on_edge = ((np.abs(cross) < 1e-6) & within).any(1)
    return bool((inside | on_edge).all())


def _stated_holes(index: AnnotationIndex, parts: Polygons, nested: Sequence[int]) -> bool:
    """Whether most areas are those of the polygons less the ones nested, and not of their union.

    Nested polygons of less than a twentieth are left aside, since the area may be counted in pixels.
    """
    votes = []
    inner: dict[int, float] = {}
    for p in set(nested):
        row = int(parts.owners[p])
        inner[row] = inner.get(row, 0.0) + polygon_area(parts.points(p))
    for row, nested_area in inner.items():
        first, last = np.searchsorted(parts.owners, [row, row + 1]).tolist()
        union = sum(polygon_area(parts.points(p)) for p in range(first, last)) - nested_area
        if nested_area >= 0.05 * union:  # NaN, where no area is stated, compares as False
            votes.append(abs(index.areas[row] - (union - nested_area)) < abs(index.areas[row] - union))
    return bool(2 * sum(votes) > len(votes))


def ious(a: Floats, b: Floats) -> Floats:
    """IoU of boxes in pairs: [n, 4] xyxy twice -> [n]; 0 where neither has area."""
    shared = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    found: Floats = shared / np.where(union > 0, union, 1.0)
    return found


def _nested(parts: Polygons) -> tuple[Integers, Integers]:
    """Pairs of polygons of one annotation, the first one's box in the other's and smaller."""
    owners, boxes = parts.owners, parts.boxes
    count = len(owners)
    extent = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    inner: list[Integers] = []
    outer: list[Integers] = []
    for away in range(1, MOST_NEIGHBOURS + 1):
        if away >= count:
            break
        first = np.flatnonzero(owners[away:] == owners[:-away])
        if not len(first):
            break
        for i, o in ((first, first + away), (first + away, first)):
            fits = (boxes[i, :2] >= boxes[o, :2]).all(1) & (boxes[i, 2:] <= boxes[o, 2:]).all(1)
            fits &= (extent[i] < 0.95 * extent[o]) & (extent[i] > 1)
            inner.append(i[fits])
            outer.append(o[fits])
    if not inner:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(inner), np.concatenate(outer)


#: What a file would hold as x, y, width, height by mistake, from the right box [n, 4] xyxy and the image's
#: sides [n, 4], (width, height) twice; and what to say of it.
_READINGS: tuple[tuple[str, Callable[[Floats, Floats], Floats]], ...] = (
    ("[x1, y1, x2, y2] written as [x, y, width, height]", lambda b, s: b),
    (
        "y measured from the lower edge of the image",
        lambda b, s: np.stack([b[:, 0], s[:, 1] - b[:, 3], b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]], 1),
    ),
    (
        "y measured from the lower edge of the image",
        lambda b, s: np.stack([b[:, 0], s[:, 1] - b[:, 1], b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]], 1),
    ),
    (
        "x and y exchanged",
        lambda b, s: np.stack([b[:, 1], b[:, 0], b[:, 3] - b[:, 1], b[:, 2] - b[:, 0]], 1),
    ),
    (
        "x and y of the centre instead of the corner",
        lambda b, s: np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], 1),
    ),
    ("normalised to [0, 1]", lambda b, s: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1) / s),
    ("[x1, y1, x2, y2] normalised to [0, 1]", lambda b, s: b / s),
    (
        "x and y of the centre, normalised to [0, 1]",
        lambda b, s: np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], 1) / s,
    ),
)


def _reason(boxes: Floats, masks: Floats, sides: Floats) -> str:
    """The reading that explains most, if it explains half; empty otherwise.

    Each reading is applied to the masks' boxes and then clipped as the boxes were when they were read: that
    is exact, while a clipped box cannot be read backwards.
    """
    explained = []
    for words, mistake in _READINGS:
        as_written = mistake(masks, sides).copy()
        as_written[:, 2:] += as_written[:, :2]
        explained.append((int((ious(boxes, _clipped(as_written, sides)) >= EXPLAINED).sum()), words))
    count, words = max(explained, key=lambda e: e[0])
    return f"they look like {words} ({count} of them fit); " if 2 * count >= len(boxes) else ""


def image_sides(index: AnnotationIndex, rows: Integers) -> Floats:
    """Width and height of each annotation's image, twice: float64 [n, 4]."""
    return np.tile(index.sizes[index.images[rows]][:, ::-1].astype(np.float64), 2)


def _clipped(boxes: Floats, sides: Floats) -> Floats:
    return np.clip(boxes, 0, sides)


def doubt_of_annotations(
    index: AnnotationIndex,
    rows: Integers,
    total: int,
    kind: str,
    what: str,
    cost: str,
    advice: str,
    of: str = "",
) -> Doubt:
    """A doubt about the annotations ``rows``, rising, of ``total`` that were looked at."""
    images, ids = index.image_ids[index.images[rows]].tolist(), index.annotation_ids[rows].tolist()
    return Doubt(
        kind=kind,
        where=index.source,
        what=what,
        count=len(rows),
        total=total,
        of=of or ("annotations" if total == len(index.images) else "annotations looked at"),
        ids=tuple(ids[:NAMED]),
        names=tuple(f"annotation {a} of image {i}" for a, i in zip(ids[:NAMED], images, strict=False)),
        cost=cost,
        advice=advice,
        every=tuple(ids),
        images=tuple(images),
    )
