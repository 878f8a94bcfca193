"""Images of a report: one JPEG each, and over it what is true and what was found as SVG, each to be switched.

Outlines run a quarter of a pixel inside the masks' borders, in half pixels of the shown picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.file_names import shown
from maskrcnn.viz.instances import as_rgb, mask_window
from maskrcnn.viz.labels import Image
from maskrcnn.viz.pages import data_uri

#: Longest side of a picture, and the shortest to which it is made smaller for room.
SIDE, _LEAST_SIDE = 1024, 192
#: Of the JPEGs.
QUALITY = 80
#: Outlines that one image has at most, those named first.
MOST_OUTLINES = 400
#: Half pixels of the shown picture that an outline may be off by, so that it has fewer corners.
_OFF = 1.2

#: What is drawn over an image: the truth, what was found, and what another model found.
Layer = Literal["truth", "found", "other"]


@dataclass(frozen=True)
class Overlay:
    """One object over an image.

    shape: its mask as an RLE of the image, or its box (x, y, width, height), pixels of the image.
    layer: what it is.  kind: how it fared, a word of the page's legend (``right``, ``missed`` ...).
    label: index of its class.  size: s, m or l.
    text: what shows under the pointer.
    """

    shape: Mapping[str, Any] | Sequence[float]
    layer: Layer
    kind: str
    label: int
    size: str
    text: str


@dataclass(frozen=True)
class Shot:
    """An image of the gallery, as the template has it.

    title, told: what stands above and below.
    source: the JPEG.  width, height: of it, pixels.
    paths: (d, layer, kind, "label size", text) of each outline, in half pixels of the JPEG.
    items: "label size kind" of each object, what filters ask for.
    groups: names of the rankings that it stands in.
    ranks: its place in each of them.
    """

    title: str
    told: str
    source: str
    width: int
    height: int
    paths: tuple[tuple[str, str, str, str, str], ...]
    items: tuple[str, ...]
    groups: tuple[int, ...]
    ranks: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """About what it takes in the page."""
        return len(self.source) + sum(sum(map(len, path)) + 70 for path in self.paths) + 600


def shot(
    image: npt.NDArray[Any],
    outlines: Sequence[Overlay],
    *,
    title: str,
    told: str,
    ranks: Mapping[int, int],
    room: int,
) -> Shot:
    """Draw an image for the gallery.

    Args:
        image: [H, W, C] or [H, W], see :func:`maskrcnn.viz.instances.as_rgb`.
        outlines: the most important first; beyond :data:`MOST_OUTLINES` they are not drawn, and that is told.
        ranks: group -> place in it.
        room: bytes that it should stay below, at the price of pixels.
    """
    picture = as_rgb(image)
    height, width = picture.shape[:2]
    drawn = outlines[:MOST_OUTLINES]
    if len(drawn) < len(outlines):
        told = f"{told}; {len(drawn)} of {len(outlines)} outlines are drawn"
    side = min(SIDE, max(height, width))
    while True:
        scale = side / max(height, width)
        small = _resized(picture, scale)
        paths = tuple(
            (path_of(o.shape, 2 * scale), o.layer, o.kind, f"{o.label}{o.size}", shown(o.text)) for o in drawn
        )
        made = Shot(
            title=shown(title),
            told=shown(told),
            source=data_uri(small, QUALITY),
            width=small.shape[1],
            height=small.shape[0],
            paths=paths,
            items=tuple(dict.fromkeys(f"{o.label}{o.size}-{o.kind}" for o in outlines)),
            groups=tuple(ranks),
            ranks=tuple(ranks.values()),
        )
        if made.bytes <= room or side <= _LEAST_SIDE:
            return made
        side = max(_LEAST_SIDE, int(side * 0.8))


def _resized(picture: Image, scale: float) -> Image:
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def path_of(shape: Mapping[str, Any] | Sequence[float], scale: float) -> str:
    """An outline, with its holes, as ``d`` of an SVG path, in whole units of which a pixel has ``scale``."""
    if not isinstance(shape, Mapping):
        x, y, w, h = (round(v * scale) for v in shape)
        return f"M{x} {y}h{w}v{h}h{-w}z"
    window, left, top = mask_window(shape)
    if not window.size:
        return ""
    twice = cv2.resize(window, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)  # corners at 1/4 pixel
    contours, _ = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in contours:
        corners = (contour.reshape(-1, 2) + 0.5) / 2 + (left, top)
        scaled = (corners * scale).astype(np.float32)
        rounded = np.rint(cv2.approxPolyDP(scaled, _OFF, closed=True).reshape(-1, 2)).astype(int)
        if len(rounded) < 3:
            x, y, w, h = cv2.boundingRect(np.rint(scaled).astype(np.int32))
            rounded = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
        steps = np.diff(rounded, axis=0)
        parts.append(f"M{rounded[0, 0]} {rounded[0, 1]}l{' '.join(f'{x} {y}' for x, y in steps)}z")
    return "".join(parts)


def count_items(shots: Sequence[Shot], part: int) -> dict[str, int]:
    """How many images have each class (``part`` 0), size (1) or kind (2) of object."""
    counts: dict[str, int] = {}
    for one in shots:
        for value in {split_item(item)[part] for item in one.items}:
            counts[value] = counts.get(value, 0) + 1
    return counts


def split_item(item: str) -> tuple[str, str, str]:
    """``12s-missed`` -> ``12``, ``s``, ``missed``."""
    head, _, kind = item.partition("-")
    return head[:-1], head[-1], kind
