"""Doubts about single annotations: there twice, over the edge, without area, of a wrong area, crowd regions.

Vectorised over the columns of an :class:`AnnotationIndex`, as ``mask_doubts``.

Legend: A = annotations, P = polygons of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from maskrcnn.data.doctor import DOUBTS, Doubt
from maskrcnn.data.doctor.mask_doubts import (
    SLACK,
    Floats,
    Integers,
    Polygons,
    doubt_of_annotations,
    image_sides,
    polygons,
)
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.data.interfaces import Dataset

#: Of all annotations; COCO's own files have one crowd region in 85.
MANY_CROWDS = 0.1
#: A polygon of less has no extent: its points lie on a line, or on each other.  Square pixels.
NO_AREA = 1e-6
#: Polygons whose areas are computed at once, so that memory stays flat.
_AT_ONCE = 100_000


@DOUBTS.register("annotations")
def _of_a_run(dataset: Dataset, _: Dataset | None) -> Iterable[Doubt]:
    if not isinstance(dataset, CocoDataset):
        return []
    index = dataset.index
    parts, areas = polygons(index), polygon_areas(index)
    found = [*twin_doubts(index), crowd_doubt(index), area_doubt(index, parts, areas)]
    return filter(None, [*found, edge_doubt(index, parts), flat_doubt(index, parts, areas)])


def twin_doubts(index: AnnotationIndex) -> list[Doubt]:
    """Annotations that repeat another of their image: of its class, and of another class."""
    same: list[int] = []
    other: list[int] = []
    for first, second in same_objects(index):
        (same if index.labels[first] == index.labels[second] else other).append(second)
    found = []
    if same:
        found.append(
            doubt_of_annotations(
                index,
                np.unique(same),
                len(index.images),
                "annotation twice",
                "annotations that repeat another of their image: class, box and mask",
                "each is one more object to find, and non-maximum suppression leaves one detection for both,"
                " so the other is always missed",
                "keep one of each",
            )
        )
    if other:
        found.append(
            doubt_of_annotations(
                index,
                np.unique(other),
                len(index.images),
                "object of two classes",
                "annotations that have box and mask of another one of another class",
                "the classifier is told that both are right, and learns neither",
                "keep the right one of each",
            )
        )
    return found


def same_objects(index: AnnotationIndex) -> list[tuple[int, int]]:
    """Rows of annotations that share image, box and mask: the first one's, and that of each repetition."""
    keys = np.column_stack([index.images, index.crowds, index.boxes])
    order = np.lexsort(keys.T[::-1])
    repeats = np.flatnonzero((keys[order[1:]] == keys[order[:-1]]).all(1))
    truth = index.ground_truth()
    encode, outline = truth.encode, truth.outline

    def mask(row: int) -> object:
        if encode is None or outline is None:
            return None
        return outline(row) or encode(row)

    found = []
    first = -1
    for place in repeats.tolist():
        one, two = int(order[place]), int(order[place + 1])
        if first < 0 or index.images[first] != index.images[one] or (keys[first] != keys[one]).any():
            first = one
        if mask(first) == mask(two):
            found.append((first, two))
    return found


def crowd_doubt(index: AnnotationIndex) -> Doubt | None:
    """More crowd regions than anyone draws by hand; classes that have no others are told by ``doubts``."""
    both = np.bincount(index.labels[~index.crowds], minlength=len(index.categories)) > 0
    rows = np.flatnonzero(index.crowds & both[index.labels])
    if len(rows) < MANY_CROWDS * len(index.crowds) or not len(rows):
        return None
    return doubt_of_annotations(
        index,
        rows,
        len(index.crowds),
        "many crowd regions",
        "crowd regions (iscrowd: 1), more than are drawn by hand",
        "they never train and are never judged; detections on them count as neither right nor wrong",
        "set iscrowd to 0 on those that are single objects (labelling tools write 1 for whatever they store"
        " as RLE)",
    )


def area_doubt(index: AnnotationIndex, parts: Polygons, areas: Floats) -> Doubt | None:
    """Stated areas that neither the box can have nor the mask.

    areas: of each polygon, see :func:`polygon_areas`.
    """
    most = index.boxes[:, 2:].prod(1)
    np.maximum.at(most, parts.owners, np.bincount(parts.owners, areas, len(most))[parts.owners])
    rows = np.flatnonzero(((index.areas > 1.05 * most + 1) | (index.areas == 0)) & ~index.crowds)
    if not len(rows):
        return None
    return doubt_of_annotations(
        index,
        rows,
        len(index.areas),
        "area that cannot be",
        "objects whose stated 'area' is 0, or more than box and mask have",
        "evaluation counts them among the small, medium or large ones by it (APs, APm, APl)",
        "leave 'area' out, then it is taken from the mask; or write that of the mask in square pixels",
    )


def edge_doubt(index: AnnotationIndex, parts: Polygons) -> Doubt | None:
    """Polygons that reach out of their image."""
    sides = image_sides(index, parts.owners)
    over = np.maximum(-parts.boxes[:, :2], parts.boxes[:, 2:] - sides[:, 2:]).max(1, initial=0)
    rows = np.unique(parts.owners[over > SLACK])
    if not len(rows):
        return None
    return doubt_of_annotations(
        index,
        rows,
        len(np.unique(parts.owners)),
        "mask over the edge",
        f"masks with a polygon that reaches out of its image, by up to {over.max():.0f} px",
        "what lies outside is cut off; it may be a sign of another size of image, or of shifted labels",
        "look at one of them; if the image was scaled after it was labelled, scale its annotations too",
        of="masks of polygons",
    )


def flat_doubt(index: AnnotationIndex, parts: Polygons, areas: Floats) -> Doubt | None:
    """Polygons whose points lie on a line, or on each other."""
    rows = np.unique(parts.owners[areas <= NO_AREA])
    if not len(rows):
        return None
    return doubt_of_annotations(
        index,
        rows,
        len(np.unique(parts.owners)),
        "polygon without area",
        "masks with a polygon whose points lie on one line, or on each other",
        "it is drawn as a line of pixels, or not at all",
        "remove the polygon; where it is the only one, draw the object again",
        of="masks of polygons",
    )


def polygon_areas(index: AnnotationIndex) -> Floats:
    """The area of each polygon by the shoelace formula: float64 [P], square pixels, >= 0."""
    sizes = index.polygon_sizes.astype(np.int64)
    owners = np.repeat(np.arange(len(index.images)), np.diff(index.polygon_ends, prepend=0))
    areas = np.zeros(len(sizes))
    for here, values, unit in index.polygon_stores():
        mine = np.flatnonzero(here[owners])
        ends = np.cumsum(sizes[mine])
        for start in range(0, len(mine), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            first = int(ends[start] - sizes[mine[start]])
            last = int(ends[some][-1])
            points = values[2 * first : 2 * last].reshape(-1, 2).astype(np.float64)
            areas[mine[some]] = _shoelace(points, ends[some] - first) / unit**2
    return areas


def _shoelace(points: Floats, ends: Integers) -> Floats:
    """Of polygons in a row, [n, 2], that end at ``ends``."""
    starts = np.concatenate([[0], ends[:-1]])
    # Around the first point of each, so that nothing is lost far from the origin.
    points = points - np.repeat(points[starts], np.diff(ends, prepend=0), axis=0)
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    x, y = points.T
    found: Floats = np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2
    return found
