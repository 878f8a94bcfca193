"""Masks as GeoJSON: valid geometries of the same pixels."""

from __future__ import annotations

import json

import numpy as np
import shapely
from shapely.geometry import shape

from maskrcnn.data.formats.geojson import geojson_feature, geojson_geometry
from maskrcnn.structures import rle


def test_geometries_are_valid_and_cover_the_pixels() -> None:
    bitmap = np.zeros((12, 15), dtype=np.uint8)
    bitmap[1:8, 2:9] = 1
    bitmap[3:5, 4:6] = 0  # a hole
    two = bitmap.copy()
    two[10, 12] = 1
    for mask, kind, holes in ((bitmap, "Polygon", 1), (two, "MultiPolygon", 1)):
        geometry = geojson_geometry([0, 0, 1, 1], rle.as_text(rle.encode(mask)))
        geometry = json.loads(json.dumps(geometry))
        found = shape(geometry)
        assert geometry["type"] == kind and found.is_valid and found.area == mask.sum()
        parts = getattr(found, "geoms", [found])
        assert sum(len(part.interiors) for part in parts) == holes
        for y, x in np.ndindex(mask.shape):
            assert found.contains(shapely.Point(x + 0.5, y + 0.5)) == bool(mask[y, x])


def test_without_pixels_it_is_the_box() -> None:
    for code in (None, rle.encode(np.zeros((4, 4), dtype=np.uint8))):
        found = shape(geojson_geometry([1.5, 2, 3, 1], code))
        assert found.bounds == (1.5, 2, 4.5, 3)
    feature = geojson_feature(3, "cell", 0.25, {"type": "Point"}, image_id=7)
    assert (feature["id"], feature["properties"]["classification"]) == ("3", {"name": "cell"})
    assert (feature["properties"]["measurements"]["score"], feature["properties"]["image_id"]) == (0.25, 7)
