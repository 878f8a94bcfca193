"""Windows of a TIFF are its pixels, of whatever layout, and large files are never whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.regions import open_regions
from maskrcnn.data.windows import Window
from tests.data.test_regions import WINDOWS, part, picture

tifffile = pytest.importorskip("tifffile")
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("tiles", {"tile": (32, 48), "photometric": "rgb"}),
    ("deflated tiles", {"tile": (32, 32), "photometric": "rgb", "compression": "zlib", "predictor": True}),
    ("strips", {"rowsperstrip": 7, "photometric": "rgb"}),
    ("one strip", {"photometric": "rgb", "compression": "zlib"}),
    ("planes", {"tile": (32, 32), "photometric": "rgb", "planarconfig": "separate"}),
    ("bigtiff", {"tile": (64, 64), "photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
    ("ome", {"tile": (64, 64), "photometric": "rgb", "ome": True}),
]


@pytest.mark.parametrize(("name", "options"), KINDS, ids=[name for name, _ in KINDS])
def test_windows_of_a_tiff(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    image, path = picture(), tmp_path / "image.tif"
    stored = np.moveaxis(image, -1, 0) if name == "planes" else image
    tifffile.imwrite(path, stored, **options)
    regions = open_regions(path)
    assert regions.size == (131, 133)
    for window in WINDOWS:
        np.testing.assert_array_equal(regions.read(window).values, part(image, window))


def test_a_large_tiff_is_never_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.tif"

    def tiles() -> Any:
        for number in range(64):
            yield np.full((256, 256), number, dtype=np.uint8)

    tifffile.imwrite(
        path, tiles(), shape=(2048, 2048), dtype=np.uint8, tile=(256, 256), photometric="minisblack"
    )
    monkeypatch.setattr("maskrcnn.data.regions.read_image", None)
    read = list[int]()
    decode = tifffile.FileHandle.read
    monkeypatch.setattr(tifffile.FileHandle, "read", lambda self, n=-1: read.append(n) or decode(self, n))
    regions = open_regions(path)
    read.clear()
    values = regions.read(Window(300, 600, 100, 100)).values
    assert values.shape == (100, 100, 3) and (values == 8 * 2 + 1).all()
    assert sum(read) == 256 * 256  # the one tile
