"""Masks to polygons that mean the very same pixels, holes and all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.structures import rle

_Point = tuple[int, int]


@dataclass(frozen=True)
class PixelPolygon:
    """A part of a mask, whose pixels hang together by their sides: simple lines along edges of pixels.

    exterior: the corners (x, y) of the line around it, clockwise (y points down), the first not repeated.
    holes: those of the lines around its holes, the other way round.
    """

    exterior: list[_Point]
    holes: list[list[_Point]]


def polygons(code: rle.RLE | rle.TextRLE) -> list[PixelPolygon]:
    """The parts of a mask, from which :func:`code_of_polygons` makes the very mask again.

    They are valid by the rules of GeoJSON and shapely: a line that would meet itself at a corner becomes two.
    """
    bitmap, x0, y0 = rle.decode_crop(code)
    if not bitmap.size:
        return []
    count, parts = cv2.connectedComponents(bitmap, connectivity=4)
    found = [PixelPolygon([], []) for _ in range(1, count)]
    for loop in (simple for whole in boundary_loops(bitmap) for simple in _without_meetings(whole)):
        (x, y), (x1, y1) = loop[:2]
        # The pixel at the right hand of its first edge, by the corner that it begins at.
        row, column = y - (x1 < x or y1 < y), x - (x1 < x or y1 > y)
        part = found[int(parts[row, column]) - 1]
        corners = [(a + x0, b + y0) for a, b in loop]
        if _turns(loop) > 0:
            part.exterior.extend(corners)
        else:
            part.holes.append(corners)
    return found


def code_of_polygons(parts: Iterable[PixelPolygon], height: int, width: int) -> rle.RLE:
    """The code of an image of ``height`` x ``width`` of the parts that :func:`polygons` gives."""
    lines = [line for part in parts for line in (part.exterior, *part.holes)]
    flat = [np.array(line, dtype=np.float64).reshape(-1) for line in lines]
    return rle.exclusive_union(rle.draw_polygons(flat, height, width), height, width)


def _turns(loop: list[_Point]) -> int:
    """Twice the area that a line is walked around clockwise."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(loop, loop[1:] + loop[:1], strict=True))


def _without_meetings(loop: list[_Point]) -> Iterator[list[_Point]]:
    """The simple lines of one that meets itself at corners."""
    trail: list[_Point] = []
    places: dict[_Point, int] = {}
    for corner in loop:
        if corner in places:
            start = places[corner]
            yield trail[start:]
            for left in trail[start:]:
                del places[left]
            del trail[start:]
        places[corner] = len(trail)
        trail.append(corner)
    yield trail


def outline(code: rle.RLE | rle.TextRLE) -> list[float]:
    """One closed polygon, flat x, y in pixels, that :func:`rle.from_polygons` draws as the mask again.

    It goes along the edges of pixels, round each part clockwise and round each hole the other way; from one
    to the next it takes a straight seam, and the same seams back, so that they enclose nothing.  Empty for
    an empty mask.
    """
    bitmap, x0, y0 = rle.decode_crop(code)
    loops = boundary_loops(bitmap)
    there = [point for loop in loops for point in (*loop, loop[0])]
    back = [loop[0] for loop in loops[-2::-1]]
    return [float(v) for x, y in there + back for v in (x + x0, y + y0)]


def boundary_loops(bitmap: npt.NDArray[np.uint8]) -> list[list[_Point]]:
    """The corners (x, y) of each closed line between a 0/1 bitmap's [h, w] pixels of 1 and of 0.

    The pixels of 1 lie to the right; where two touch by a corner alone, the line turns off there, so that
    they belong to two loops.
    """
    p = np.pad(bitmap.astype(np.bool_), 1)
    right, below = p[1:-1, 1:], p[1:, 1:-1]
    ways: dict[_Point, list[_Point]] = defaultdict(list)
    for way, edges, shift in (
        ((1, 0), below & ~p[:-1, 1:-1], (0, 0)),  # along the top of a pixel
        ((-1, 0), ~below & p[:-1, 1:-1], (1, 0)),  # along its bottom
        ((0, -1), right & ~p[1:-1, :-1], (0, 1)),  # up its left
        ((0, 1), ~right & p[1:-1, :-1], (0, 0)),  # down its right
    ):
        for y, x in np.argwhere(edges).tolist():
            ways[x + shift[0], y + shift[1]].append(way)
    loops = []
    while ways:
        start = at = next(iter(ways))
        step = (0, 0)
        loop: list[_Point] = []
        while not loop or at != start:
            choices, turned = ways[at], (-step[1], step[0])
            new = turned if turned in choices else choices[0]
            choices.remove(new)
            if not choices:
                del ways[at]
            if new != step:
                loop.append(at)
            step, at = new, (at[0] + new[0], at[1] + new[1])
        loops.append(loop)
    return loops
