"""Masks to polygons that mean the very same pixels, holes and all."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from maskrcnn.structures import rle

_Point = tuple[int, int]


def outline(code: rle.RLE) -> list[float]:
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
