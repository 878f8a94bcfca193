"""Label images of 32 bits in tiles are those that are made at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.errors import OutputError
from maskrcnn.run.label_tiles import write_label_tiles
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.prediction_files import Written, write_each
from maskrcnn.structures import rle

SIZE = (700, 1300)


def codes(count: int = 60) -> list[rle.TextRLE]:
    """Rectangles anywhere, some over others and over tiles' borders."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        height, width = (int(v) for v in rng.integers(3, 300, 2))
        y, x = int(rng.integers(SIZE[0] - height + 1)), int(rng.integers(SIZE[1] - width + 1))
        mask = np.ones((height, width), dtype=np.uint8)
        out.append(rle.as_text(rle.encode_crop(mask, x, y, *SIZE)))
    return out


def test_tiles_hold_what_the_whole_image_holds(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for some in (codes(), []):
        write_label_tiles(tmp_path / "labels" / "a.tiff", some, SIZE)
        found = tifffile.imread(tmp_path / "labels" / "a.tiff")
        assert found.dtype == np.uint32 and found.shape == SIZE
        np.testing.assert_array_equal(found, rle.numbered(some, *SIZE))


def test_predict_writes_them_for_images_that_are_not_held(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    some = codes(3)
    records = [
        {"image_id": 1, "category_id": 7, "score": 0.5, "bbox": [0.0, 0.0, 1.0, 1.0], "segmentation": code}
        for code in some
    ]
    boxes, scores, labels = np.zeros((3, 4)), np.full(3, 0.5), np.zeros(3, dtype=np.int64)
    found = Prediction(None, boxes, scores, labels, records, ("cell",), size=SIZE)
    image = Written(found, tmp_path / "a.tif", tmp_path, "a")
    assert write_each(["labels-tiff", "polygons"], image) == []
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels-tiff/a.tiff"), rle.numbered(some, *SIZE))
    assert json.loads((tmp_path / "polygons/a.geojson").read_text()) == json.loads(
        json.dumps(found.to_geojson())
    )


def test_without_the_library_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(OutputError, match=r"a\.tiff: label images of 32 bits.*pip install maskrcnn\[tiff\]"):
        write_label_tiles(tmp_path / "a.tiff", codes(1), SIZE)
