"""Colours: the same for a class in every picture, and apart for instances that touch."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

Colour = tuple[int, int, int]

# Okabe and Ito's palette, which people tell apart whatever their colour vision, and a gray scale.
INK = "#1b1b1b"
QUIET = "#767676"
FAINT = "#d9d9d9"
BLUE = "#0072B2"
SKY = "#56B4E9"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
#: Pixels that are more, and less, than those compared with (orange and sky blue of the above).
MORE: Colour = (230, 159, 0)
LESS: Colour = (86, 180, 233)
#: What charts draw their series in, one after the other: neighbours are far apart.
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, INK, QUIET)

#: Hues in degrees that most people tell apart on photographs and on gray microscopy.
HUES = (210, 25, 130, 330, 50, 180, 275, 0, 90, 240, 305, 150)
#: Luminance that every colour of an object has at least, to be seen on its dark rim (0..255).
LIGHT = 120
#: The golden angle: successive multiples never come close to an earlier one.
GOLDEN = 137.50776


def class_colour(label: int) -> Colour:
    """RGB of a class, by its contiguous index alone."""
    turn, place = divmod(label, len(HUES))
    return _rgb(HUES[place] + 11 * turn, 0.85 - 0.12 * (turn % 3), 1.0 - 0.1 * (turn % 2))


def instance_colour(number: int) -> Colour:
    """RGB of the n-th instance where the class tells nothing (one class in all)."""
    return _rgb(200 + GOLDEN * number, (0.78, 0.6, 0.9)[number % 3], (1.0, 0.9, 0.95)[number % 3])


def shade(colour: Colour, number: int) -> Colour:
    """A variation of a class's colour for its n-th instance in a picture; the first is the colour itself."""
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    turn, value = ((0, 1.0), (12, 0.82), (-12, 0.92), (6, 0.7))[number % 4]
    return _rgb(h * 360 + turn, s, v * value)


def luminance(colour: tuple[float, float, float]) -> float:
    """In 0..255 (ITU-R BT.709)."""
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def ink(colour: Colour) -> Colour:
    """Black or white, whichever reads better on ``colour``."""
    return (0, 0, 0) if luminance(colour) > 115 else (255, 255, 255)


def series_colour(number: int, colours: Sequence[str] = SERIES) -> str:
    """Of the n-th series of a chart, as ``#rrggbb``; after the last the first comes again."""
    return colours[number % len(colours)]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    missing = LIGHT - luminance((255 * r, 255 * g, 255 * b))
    white = max(
        0.0, missing / (255 + missing - LIGHT)
    )  # mixed with so much of it, blue and violet are light too
    red, green, blue = (round(255 * (c + (1 - c) * white)) for c in (r, g, b))
    return red, green, blue
