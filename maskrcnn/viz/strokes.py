"""Outlines and fills, anti-aliased to a sixteenth of a pixel, each outline light on a dark rim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.viz.labels import Image, Rect
from maskrcnn.viz.palette import Colour

#: A closed line: int32 [P, 1, 2], x and y in sixteenths of a pixel, 0 at the middle of the first.
Line = npt.NDArray[np.int32]
#: Fixed-point bits of the coordinates given to OpenCV.
SHIFT = 4
#: How dark the rim is, 0 to 255.
RIM = 210
#: Points a pixel of a mask at which its outline is found, where the mask is not so large that it takes long.
_FINE, _LARGEST = 4, 4096
#: How far an outline may stray, in points.
_STRAY = 0.7
#: Rows of a picture that are darkened in one go.
_ROWS = 512


@dataclass(frozen=True)
class Outline:
    """What is stroked together: lines of one ``colour``, ``width`` pixels wide without the rim.

    dashed: in dashes of six widths.
    """

    lines: Sequence[Line]
    colour: Colour
    width: int
    dashed: bool = False


def outline_of(window: Image, x: int, y: int, factor: int) -> list[Line]:
    """The outlines of a mask and of its holes, in a picture that is enlarged by ``factor``.

    Args:
        window: 0/255 [h, w], the part of the mask that is not empty, whose corner is pixel (``x``, ``y``).
    """
    if not window.size:
        return []
    fine = max(1, min(max(_FINE, factor), _LARGEST // max(window.shape)))
    margin = 2
    grown = cv2.copyMakeBorder(window, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=[0])
    size = (grown.shape[1] * fine, grown.shape[0] * fine)
    grown = cv2.resize(grown, size, interpolation=cv2.INTER_LINEAR)
    # Blurred by a little more than the tent of the enlargement, the stairs of pixels become curves; what that
    # leaves nothing of is drawn as it is.
    soft = cv2.GaussianBlur(grown, (0, 0), 0.5 * fine) if fine > 1 else grown
    solid = (soft >= 128) if (soft >= 128).any() else grown >= 128
    found, _ = cv2.findContours(solid.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    corner = np.array([x, y]) - margin
    places = (cv2.approxPolyDP(line, _STRAY, True) for line in found)
    return [
        np.rint((((points + 0.5) / fine + corner) * factor - 0.5) * (1 << SHIFT)).astype(np.int32)
        for points in places
    ]


def corners(box: Rect) -> Line:
    """The line through the outermost pixels of a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    points = np.array([[x1, y1], [x2 - 1, y1], [x2 - 1, y2 - 1], [x1, y2 - 1]]) << SHIFT
    return points.astype(np.int32)[:, None]


def line_width(box: Rect, height: int, width: int) -> int:
    """What suits an object in a picture of this size: thin ones for small objects."""
    side = min(box[2] - box[0], box[3] - box[1])
    return int(np.clip(round(max(height, width) / 500), 1, max(1, side // 12)))


def fill(canvas: Image, lines: Sequence[Line], colour: Colour, alpha: float) -> None:
    """Blend what the lines enclose, holes left out, into ``canvas`` [H, W, 3], in place."""
    window = _window(lines, 1, canvas)
    if window is None or alpha <= 0:
        return
    x1, y1, x2, y2 = window
    matte = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
    shifted = [line - (np.array([x1, y1], dtype=np.int32) << SHIFT) for line in lines]
    cv2.fillPoly(matte, shifted, 255, cv2.LINE_AA, SHIFT)
    part = canvas[y1:y2, x1:x2]
    weight = matte[..., None].astype(np.float32) * np.float32(alpha / 255)
    part[:] = np.rint(part + (np.array(colour, dtype=np.float32) - part) * weight).astype(np.uint8)


def stroke(canvas: Image, outlines: Sequence[Outline]) -> None:
    """Stroke outlines onto ``canvas`` [H, W, 3], in place: first the rims of all, then the lines."""
    rim = np.zeros(canvas.shape[:2], dtype=np.uint8)
    for outline in outlines:
        cv2.polylines(rim, list(outline.lines), True, RIM, outline.width + 1, cv2.LINE_AA, SHIFT)
    for top in range(0, len(canvas), _ROWS):
        part, dark = canvas[top : top + _ROWS], rim[top : top + _ROWS]
        if dark.any():
            part[:] = (part.astype(np.uint16) * (255 - dark.astype(np.uint16))[..., None] // 255).astype(
                np.uint8
            )
    for outline in outlines:
        lines = list(outline.lines)
        if outline.dashed:
            dashes = [dash for line in lines for dash in _dashes(line, 6 * outline.width)]
            cv2.polylines(canvas, dashes, False, outline.colour, outline.width, cv2.LINE_AA, SHIFT)
        else:
            cv2.polylines(canvas, lines, True, outline.colour, outline.width, cv2.LINE_AA, SHIFT)


def _dashes(line: Line, length: float) -> list[Line]:
    """Every other piece of a closed line, each so many pixels long at most."""
    points = np.concatenate((line[:, 0], line[:1, 0])).astype(np.float64)
    along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))))
    count = max(2, 2 * round(along[-1] / (2 * length * (1 << SHIFT))))
    ends = np.linspace(0, along[-1], count + 1)
    out = []
    for start, stop in zip(ends[:-1:2], ends[1::2], strict=True):
        inner = along[(along > start) & (along < stop)]
        at = np.concatenate(([start], inner, [stop]))
        places = np.stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)], axis=1)
        out.append(np.rint(places).astype(np.int32)[:, None])
    return out


def _window(lines: Sequence[Line], margin: int, canvas: Image) -> Rect | None:
    """The pixels of the canvas that the lines touch; None: none."""
    if not lines:
        return None
    points = np.concatenate(lines)[:, 0] >> SHIFT
    x1, y1 = np.maximum(points.min(axis=0) - margin, 0).tolist()
    x2, y2 = np.minimum(points.max(axis=0) + 2 + margin, canvas.shape[1::-1]).tolist()
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
