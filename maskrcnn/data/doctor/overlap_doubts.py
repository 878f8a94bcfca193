"""Polygons that run over themselves: what is covered twice is outside for COCO, which fills by even and odd.

A polygon that runs round a hole and back along the same line (which is how one polygon shows a hole) covers
nothing twice, and is right.  Geometry is shapely's (GEOS).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from maskrcnn.data.doctor import THOROUGH, Doubt
from maskrcnn.data.doctor.file_doubts import spread
from maskrcnn.data.doctor.look import Look, installed
from maskrcnn.data.doctor.mask_doubts import Floats, Integers, Polygons, doubt_of_annotations, polygons
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.data.interfaces import Dataset

#: Smaller overlaps are slips of the hand, and change single pixels.
LEAST_SHARE, LEAST_PIXELS = 0.01, 4.0
#: So many polygons that touch or cross themselves are looked at piece by piece.
MOST_PIECED = 5000
_AT_ONCE = 50_000


@THOROUGH.register("overlaps")
def _of_a_run(dataset: Dataset, _: Dataset | None, look: Look) -> Iterable[Doubt]:
    if not isinstance(dataset, CocoDataset) or not dataset.index.masks:
        return []
    if not installed("shapely"):
        look.skip("polygons that run over themselves (they need pip install 'maskrcnn[doctor]')")
        return []
    return filter(None, [overlap_doubt(dataset.index, polygons(dataset.index))])


def overlap_doubt(index: AnnotationIndex, parts: Polygons) -> Doubt | None:
    """Masks with a polygon that covers a part of itself an even number of times."""
    crossing = spread(crossing_polygons(parts), MOST_PIECED)
    lost = {p: share for p in crossing.tolist() if (share := share_lost(parts.points(p)))}
    rows = np.unique(parts.owners[list(lost)])
    if not len(rows):
        return None
    return doubt_of_annotations(
        index,
        rows,
        len(np.unique(parts.owners)),
        "polygon over itself",
        "masks with a polygon that runs over itself",
        f"what it covers twice is outside (COCO fills by even and odd): up to {max(lost.values()):.0%} of the"
        " polygon",
        "draw the outline once round, or --fix, which fills what is covered twice",
        of="masks of polygons",
    )


def crossing_polygons(parts: Polygons) -> Integers:
    """Places of polygons whose outline touches or crosses itself: int64 [n]."""
    import shapely

    found: list[Integers] = []
    for start in range(0, len(parts.owners), _AT_ONCE):
        some = range(start, min(start + _AT_ONCE, len(parts.owners)))
        points = [parts.points(p) for p in some]
        which = np.repeat(np.arange(len(points)), [len(p) for p in points])
        rings = shapely.linearrings(np.concatenate(points), indices=which)
        found.append(start + np.flatnonzero(~shapely.is_simple(rings)))
    return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def share_lost(points: Floats) -> float:
    """Of the area that a polygon [n, 2] winds round, the share covered twice; 0 where that is slight."""
    areas = [(face.area, winding) for face, winding in faces(points)]
    whole = sum(area for area, winding in areas if winding)
    lost = sum(area for area, winding in areas if winding and winding % 2 == 0)
    return lost / whole if lost >= max(LEAST_SHARE * whole, LEAST_PIXELS) else 0.0


def filled(points: Floats) -> list[list[Floats]]:
    """What a polygon [n, 2] winds round, as outlines: of each part its outer one, then those of its holes."""
    import shapely

    whole = shapely.union_all([face for face, winding in faces(points) if winding])
    parts: Sequence[Any] = getattr(whole, "geoms", [whole])
    return [
        [np.asarray(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)]
        for part in parts
        if not part.is_empty
    ]


def faces(points: Floats) -> list[tuple[Any, int]]:
    """Shapely's pieces into which the outline [n, 2] cuts the plane, and how often it winds round each."""
    import shapely

    lines = shapely.node(shapely.linearrings(points))
    pieces = shapely.polygonize([lines]).geoms
    return [(piece, winding(points, piece.representative_point().coords[0])) for piece in pieces]


def winding(points: Floats, at: tuple[float, ...]) -> int:
    """How often the polygon [n, 2] runs round a point, against the clock of a y axis that points up."""
    x, y = at
    a, b = points, np.roll(points, -1, axis=0)
    left = (b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (x - a[:, 0]) * (b[:, 1] - a[:, 1])
    up = (a[:, 1] <= y) & (b[:, 1] > y) & (left > 0)
    down = (a[:, 1] > y) & (b[:, 1] <= y) & (left < 0)
    return int(up.sum()) - int(down.sum())
