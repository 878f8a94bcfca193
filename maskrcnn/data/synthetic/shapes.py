"""The shape classes of the synthetic data: outlines as polygons in unit coordinates.

Every outline is a list of rings [n, 2]; the first is the outside, further ones are holes.  A shape is about
2 units across and centred at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ring: TypeAlias = npt.NDArray[np.float64]

#: Class names by rising category id.
SHAPES = ("disc", "box", "star", "crescent", "ring", "cross")
#: The class with keypoints, which its outline alone tells apart; a mirror changes left and right.
POSED = SHAPES.index("crescent")
KEYPOINTS = ("belly", "waist", "left_tip", "right_tip")
#: Lines between them, places in ``KEYPOINTS``.
SKELETON = ((2, 0), (0, 3), (3, 1), (1, 2))


def make_shape(name: str, rng: np.random.Generator) -> list[Ring]:
    """One shape with random proportions and direction."""
    rings = _MAKERS[name](rng)
    angle = 2 * math.pi * rng.random()
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return [ring @ turn for ring in rings]


def _arc(start: float, end: float, points: int, radius: float = 1.0) -> Ring:
    """Points on a circle from angle ``start`` to ``end``, both included."""
    angles = [start + (end - start) * i / (points - 1) for i in range(points)]
    return np.array([[radius * math.cos(a), radius * math.sin(a)] for a in angles])


def _circle(points: int = 40, radius: float = 1.0) -> Ring:
    return _arc(0, 2 * math.pi, points + 1, radius)[:-1]


def _disc(rng: np.random.Generator) -> list[Ring]:
    """Convex, round: an ellipse."""
    return [_circle() * [1.0, 0.65 + 0.35 * rng.random()]]


def _box(rng: np.random.Generator) -> list[Ring]:
    """Convex, with corners: a rectangle, slightly skewed."""
    half = 0.55 + 0.3 * rng.random()
    corners = np.array([[-0.85, -half], [0.85, -half], [0.85, half], [-0.85, half]])
    return [corners + 0.12 * (rng.random((4, 2)) - 0.5)]


def _star(rng: np.random.Generator) -> list[Ring]:
    """Concave: a star of 5 or 6 points."""
    points = int(rng.integers(5, 7))
    inner = 0.38 + 0.12 * rng.random()
    radii = [1.0 if i % 2 == 0 else inner for i in range(2 * points)]
    angles = [math.pi * i / points for i in range(2 * points)]
    return [np.array([[r * math.cos(a), r * math.sin(a)] for r, a in zip(radii, angles, strict=True)])]


def _crescent(rng: np.random.Generator) -> list[Ring]:
    """Concave: a disc from which another is cut."""
    radius, shift = 0.75 + 0.1 * rng.random(), 0.55 + 0.1 * rng.random()
    # Where the two circles cross: |p| = 1 and |p - (shift, 0)| = radius.
    x = (1 + shift * shift - radius * radius) / (2 * shift)
    outer = math.acos(x)
    inner = math.atan2(math.sin(outer), x - shift)
    outside = _arc(outer, 2 * math.pi - outer, 30)
    inside = _arc(2 * math.pi - inner, inner, 24, radius)[1:-1] + np.array([shift, 0.0])
    return [np.concatenate([outside, inside])]


def keypoints_of(outline: Ring) -> Ring:
    """The keypoints [4, 2] of a crescent's outline, wherever it lies.

    The belly is the middle of the outer arc, the waist of the inner one; left and right are those of one who
    stands on the belly and looks at the waist (y points down).
    """
    tips, belly, waist = outline[[29, 0]], outline[14:16].mean(0), outline[40:42].mean(0)
    return np.stack([belly, waist, *tips])


def _ring(rng: np.random.Generator) -> list[Ring]:
    """With a hole."""
    stretch = [1.0, 0.75 + 0.25 * rng.random()]
    return [_circle() * stretch, _circle(32, 0.42 + 0.18 * rng.random()) * stretch]


def _cross(rng: np.random.Generator) -> list[Ring]:
    """Thin: two bars."""
    t, short = 0.13 + 0.09 * rng.random(), 0.65 + 0.35 * rng.random()
    quarter = [[1, -t], [1, t], [t, t], [t, short], [-t, short], [-t, t]]
    return [np.array(quarter + [[-x, -y] for x, y in quarter])]


_MAKERS: dict[str, Callable[[np.random.Generator], list[Ring]]] = dict(
    zip(SHAPES, (_disc, _box, _star, _crescent, _ring, _cross), strict=True)
)
