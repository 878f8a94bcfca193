"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from maskrcnn.picture_files import write_image


def test_an_image_comes_back_and_compression_changes_no_pixel(tmp_path: Path) -> None:
    image = np.arange(600, dtype=np.uint32).reshape(10, 20, 3).astype(np.uint8)
    for name, compression in (("é.png", None), ("b.png", 0), ("c.png", 9)):
        write_image(tmp_path / name, image, compression=compression)
        assert np.array_equal(cv2.imread(str(tmp_path / name), cv2.IMREAD_COLOR_RGB), image)
    assert (tmp_path / "b.png").stat().st_size > (tmp_path / "c.png").stat().st_size
