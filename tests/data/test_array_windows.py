"""Windows of arrays, and of the channels of a TIFF, are their pixels; other channels are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data.interfaces import ImageReading
from maskrcnn.data.regions import open_regions
from maskrcnn.errors import DataError
from tests.data.test_regions import WINDOWS, part, picture

tifffile = pytest.importorskip("tifffile")


def test_channels_as_pages_or_samples_or_planes_of_npy(tmp_path: Path) -> None:
    image = picture(channels=5)
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    tifffile.imwrite(tmp_path / "pages.tif", planes, photometric="minisblack", tile=(32, 32))
    np.save(tmp_path / "planes.npy", planes)
    np.save(tmp_path / "samples.npy", image)
    for path in tmp_path.iterdir():
        regions = open_regions(path, reading=ImageReading(5, "channels"))
        assert regions.size == (131, 133)
        np.testing.assert_array_equal(regions.read(WINDOWS[2]).values, part(image, WINDOWS[2]))
    with pytest.raises(DataError, match="the image has 5 channels, and data.channels is 3"):
        open_regions(tmp_path / "samples.npy")
    with pytest.raises(DataError, match="5 channels"):
        open_regions(tmp_path / "samples.npy", reading=ImageReading(1))
