"""GeoJSON in the pixels of an image, as QuPath, napari and GIS tools read it; y points down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskrcnn.structures import rle
from maskrcnn.structures.outlines import polygons


def geojson_geometry(box: Sequence[float], code: rle.RLE | rle.TextRLE | None) -> dict[str, Any]:
    """A mask's parts with their holes along the edges of its pixels; of a mask without one, its box.

    box: x, y, width, height in pixels.
    """
    parts = [] if code is None else polygons(code)
    rings = [[_closed(line) for line in (part.exterior, *part.holes)] for part in parts]
    if not rings:
        x, y, w, h = box
        rings = [[_closed([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])]]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def geojson_feature(
    number: int, name: str, score: float, geometry: dict[str, Any], **properties: Any
) -> dict[str, Any]:
    """An object as a feature; ``objectType``, ``classification`` and ``measurements`` are QuPath's."""
    said = {
        "objectType": "annotation",
        "classification": {"name": name},
        "measurements": {"score": score},
        **properties,
    }
    return {"type": "Feature", "id": str(number), "geometry": geometry, "properties": said}


def _closed(line: Sequence[tuple[float, float]]) -> list[list[float]]:
    """A line whose last point is its first (RFC 7946, section 3.1.6)."""
    return [[x, y] for x, y in (*line, line[0])]
