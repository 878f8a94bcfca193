"""From what each window sees to the objects of the whole image, while the windows come row by row.

**The rule.**  Two windows that overlap look at the same pixels there.  Their detections are one object where
their masks agree *in what both windows show*: halves of an object agree there however little they share of
the whole, and neighbours that touch hardly do.

1. *Pairs.*  Each part is held against those of the windows that overlap its own.  A pair stands with an IoU
   of :data:`SAME` there, or, of one class and with both cut by the borders between them, where
   :data:`INSIDE` of the smaller lies in the other (one window saw more of the object there than the other).
2. *Groups.*  Pairs are joined by falling agreement, of one class first.  No group takes two parts of one
   window: those are two objects to the window that sees both, so neighbours are not chained.  Except where
   the pair holds by containment and the two lie apart: arms of an object that meet outside of that window.
3. *Whole objects.*  Where a window shows all that a group covers, the part that lies furthest from its
   window's border is the object, its mask, box and score (a core region, so to speak: what lies in the middle
   of a window is that window's).  The class is voted on by the parts that show all.
4. *Larger ones.*  Else it is the union of all parts, over any number of windows; its score is the mean by
   area, its class the vote by score times area.
5. *Unconfirmed ones.*  What one window alone sees, where another shows all of it further from its border, is
   none: each place has one window that decides, as in a single image.  Of several windows, scraps at their
   borders are none where a further window shows all and sees nothing.

**Bounded memory.**  Pairs make clusters, which do not depend on each other.  When a row of windows is done,
each cluster that ends above the next row can get no further pair: it is decided, handed over and forgotten.
So what is held are the parts of about two rows, each as a bitmap of its own box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskrcnn.data.windows import Window
from maskrcnn.inference.tile_parts import (
    Box,
    TilePart,
    agreement,
    apart,
    clearance,
    hull,
    joined,
    read_part,
)

#: IoU, in what both windows show, from which two detections are one object.
SAME = 0.4
#: Share of the smaller one, there, that lies in the other, from which two cut ones are.
INSIDE = 0.75
#: How much more a pair of one class counts than another.
_CLASS_FIRST = 0.25


class Found(NamedTuple):
    """An object of the whole image.

    box: xyxy.  score; category: its id.
    bitmap: 0/1 [h, w] with its ``corner`` (x, y); None where the model has no masks.
    record: of the part that shows most of it, in the frame of ``window``, for what else stands there.
    """

    box: Box
    score: float
    category: int
    bitmap: npt.NDArray[np.uint8] | None
    corner: tuple[int, int]
    record: dict[str, Any]
    window: Window


class _Pair(NamedTuple):
    """iou: where both windows look.  inside: whether it stands by containment."""

    iou: float
    inside: bool
    a: TilePart
    b: TilePart


@dataclass(eq=False)
class _Cluster:
    """Parts that pairs connect, and those pairs."""

    parts: list[TilePart]
    pairs: list[_Pair] = field(default_factory=list)


@dataclass(eq=False)
class _Group:
    parts: list[TilePart]


class TileMerger:
    """Takes the windows' records in the order of ``rows``, and gives the objects that are decided.

    Args:
        rows: the windows, row by row.
        size: (height, width) of the image.
    """

    def __init__(self, rows: Sequence[Sequence[Window]], size: tuple[int, int]) -> None:
        self._rows = [list(row) for row in rows]
        self._windows = [window for row in self._rows for window in row]
        self._size = size
        self._done = 0
        # Parts by the number of their window, with their boxes [n, 4]; and the cluster of each.
        self._seen: dict[int, tuple[list[TilePart], npt.NDArray[np.float64]]] = {}
        self._clusters: dict[TilePart, _Cluster] = {}

    def add(self, records: Iterable[dict[str, Any]]) -> list[Found]:
        """The records of the next window, in its frame; what is decided when it ends a row comes back."""
        number, window = self._done, self._windows[self._done]
        parts = [part for r in records if (part := read_part(number, window, r)) is not None]
        boxes = np.array([_extent(part) for part in parts], dtype=np.float64).reshape(-1, 4)
        for part in parts:
            self._clusters[part] = _Cluster([part])
        for other, others in self._seen.values():
            if other and other[0].window.meets(window):
                self._pair(other, others, parts, boxes)
        self._seen[number] = parts, boxes
        self._done += 1
        after = self._windows[self._done] if self._done < len(self._windows) else None
        if after is not None and after.y == window.y:
            return []
        return list(self._finish(None if after is None else after.y))

    def _pair(
        self,
        others: list[TilePart],
        other_boxes: npt.NDArray[np.float64],
        parts: list[TilePart],
        boxes: npt.NDArray[np.float64],
    ) -> None:
        low = np.maximum(other_boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(other_boxes[:, None, 2:], boxes[None, :, 2:])
        for i, k in np.argwhere((low < high).all(2)).tolist():
            a, b = others[i], parts[k]
            found = agreement(a, b)
            inside = found.contained >= INSIDE and _cut_between(a, b)
            if found.iou >= SAME or inside:
                self._connect(_Pair(found.iou, inside, a, b))

    def _connect(self, pair: _Pair) -> None:
        a, b = pair.a, pair.b
        one, two = self._clusters[a], self._clusters[b]
        if one is not two:
            one, two = (one, two) if len(one.parts) >= len(two.parts) else (two, one)
            one.parts += two.parts
            one.pairs += two.pairs
            for part in two.parts:
                self._clusters[part] = one
        one.pairs.append(pair)

    def _finish(self, below: int | None) -> Iterator[Found]:
        """What ends above the row of windows that begins at ``below``; None: all."""
        clusters = list(dict.fromkeys(self._clusters.values()))
        for cluster in clusters:
            if below is not None and any(_extent(part)[3] > below for part in cluster.parts):
                continue
            for part in cluster.parts:
                del self._clusters[part]
            for group in _groups(cluster):
                found = self._decide(group.parts)
                if found is not None:
                    yield found
        for number, (parts, _) in list(self._seen.items()):
            if below is None or self._windows[number].box[3] <= below or not parts:
                del self._seen[number]

    def _decide(self, parts: list[TilePart]) -> Found | None:
        """The object of a group; None for one that is not confirmed."""
        around = hull([part.box for part in parts])
        room = {part: clearance(around, part.window, self._size) for part in parts}
        whole = [part for part in parts if room[part] >= 0]
        if whole:
            best = max(whole, key=lambda part: (room[part], part.score))
            own = {part.number for part in parts}
            enough = room[best] if len(own) == 1 else 1.0 if room[best] < 1 else float("inf")
            if self._room_elsewhere(around, own) > enough:
                return None
            category = _vote((part.category, part.score) for part in whole)
            score = max(part.score for part in whole if part.category == category)
            score = best.score if best.category == category else score
            bitmap, corner, box = best.bitmap, best.corner, best.box
        else:
            best = max(parts, key=lambda part: part.area)
            category = _vote((part.category, part.score * part.area) for part in parts)
            score = sum(part.score * part.area for part in parts) / sum(part.area for part in parts)
            bitmap, *at = joined(parts)
            corner, box = (at[0], at[1]), around
        has_mask = "segmentation" in best.record
        return Found(box, score, category, bitmap if has_mask else None, corner, best.record, best.window)

    def _room_elsewhere(self, box: Box, own: set[int]) -> float:
        """How far a box stays from the border of another window, at most, that shows all of it; -1: none."""
        others = (window for number, window in self._around(box) if number not in own)
        return max((clearance(box, window, self._size) for window in others), default=-1.0)

    def _around(self, box: Box) -> Iterator[tuple[int, Window]]:
        """The windows that may show all of a box, with their numbers."""
        number = 0
        for row in self._rows:
            if row[0].y <= box[1] and row[0].box[3] >= box[3]:
                yield from ((number + i, w) for i, w in enumerate(row) if w.x <= box[0] <= box[2] <= w.box[2])
            number += len(row)


def _extent(part: TilePart) -> Box:
    """The box of the mask's pixels."""
    (x, y), (height, width) = part.corner, part.bitmap.shape
    return x, y, x + width, y + height


def _cut_between(a: TilePart, b: TilePart) -> bool:
    """Whether both are of one class and each reaches beyond the other's window, so that neither shows all."""
    if a.category != b.category:
        return False
    return all(
        clearance(mine, theirs, (1 << 62, 1 << 62)) < 0
        for mine, theirs in ((_extent(a), b.window), (_extent(b), a.window))
    )


def _groups(cluster: _Cluster) -> list[_Group]:
    """The parts of a cluster by the object that they belong to; see the module."""
    of = {part: _Group([part]) for part in cluster.parts}

    def rank(pair: _Pair) -> tuple[bool, float, int, int]:
        strength = pair.iou + _CLASS_FIRST * (pair.a.category == pair.b.category)
        return pair.iou < SAME, -strength, pair.a.number, pair.b.number

    for pair in sorted(cluster.pairs, key=rank):
        one, two = of[pair.a], of[pair.b]
        if one is two or not all(
            p.number != q.number or (pair.inside and apart(p, q)) for p in one.parts for q in two.parts
        ):
            continue
        one.parts += two.parts
        for part in two.parts:
            of[part] = one
    return list(dict.fromkeys(of.values()))


def _vote(votes: Iterable[tuple[int, float]]) -> int:
    """The category with the highest sum; of equal ones the smaller id."""
    sums: dict[int, float] = {}
    for category, weight in votes:
        sums[category] = sums.get(category, 0.0) + weight
    return min(sums, key=lambda category: (-sums[category], category))
