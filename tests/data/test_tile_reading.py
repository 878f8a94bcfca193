"""Windows of a data set are the same whatever their file is, and what can be read alone is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.data import tile_reading
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.interfaces import ContrastConfig, ImageReading, TilesConfig
from maskrcnn.data.regions import open_windows
from maskrcnn.data.tile_reading import WindowReader
from maskrcnn.data.tiles import TiledDataset, cut
from maskrcnn.data.windows import Window
from maskrcnn.errors import DataError
from maskrcnn.structures import RawSample
from tests.data.test_tiles import write_data

TILES = TilesConfig(size=64, overlap=0.25)
BOXES = [[[20, 20, 30, 30], [57, 10, 10, 10]], [[100, 80, 60, 60]]]


def write(folder: Path, kind: str) -> CocoDataset:
    """Two images, as files of a kind."""
    dataset = write_data(folder, BOXES)
    content = json.loads((folder / "data.json").read_text())
    for image in content["images"]:
        pixels = cv2.imread(str(folder / image["file_name"]))[..., ::-1]
        path = (folder / image["file_name"]).with_suffix(f".{kind.partition(' ')[0]}")
        image["file_name"] = path.name
        if path.suffix == ".npy":
            np.save(path, pixels)
        elif path.suffix == ".tif":
            tifffile = pytest.importorskip("tifffile")
            options = {"tile": (32, 32)} if kind.endswith("tiles") else {"rowsperstrip": 7}
            tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", **options)
    (folder / "data.json").write_text(json.dumps(content))
    return dataset if kind == "png" else CocoDataset(folder, folder / "data.json", training=True)


@pytest.mark.parametrize(
    ("kind", "alone"), [("png", False), ("npy", True), ("tif of tiles", True), ("tif", True)]
)
def test_windows_are_parts_of_the_whole_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, alone: bool
) -> None:
    dataset = write(tmp_path, kind)
    tiles, whole = TiledDataset(dataset, TILES), [dataset.load(place) for place in range(len(dataset))]
    asked: list[int] = []
    load = dataset.load
    monkeypatch.setattr(dataset, "load", lambda place: asked.append(place) or load(place))
    for index in range(len(tiles)):
        found, wanted = tiles.load(index), cut(whole[tiles.images[index]], tiles.window(index), TILES.keep)
        np.testing.assert_array_equal(found.image, wanted.image)
        assert found.image.dtype == np.uint8 and found.image.flags.writeable
        assert (found.info, found.notes) == (wanted.info, wanted.notes)
        assert torch.equal(found.targets.boxes, wanted.targets.boxes)
        assert torch.equal(found.targets.annotation_ids, wanted.targets.annotation_ids)
        assert found.targets.masks is not None and wanted.targets.masks is not None
        assert torch.equal(found.targets.masks.boxes(), wanted.targets.masks.boxes())
    assert asked == ([] if alone else [0, 1])


class Counting:
    """Images of a kilobyte each; counts how often one is read."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def load(self, place: int) -> RawSample:
        self.asked.append(place)
        info: Any = None
        return RawSample(np.zeros((16, 64, 1), dtype=np.uint8), info, info)


def test_whole_images_are_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    images: Any = Counting()
    monkeypatch.setattr(tile_reading, "KEPT", 2048)
    reader, window = WindowReader(images), Window(0, 0, 8, 8)
    for place in (
        0,
        1,
        0,
        1,
        2,
        1,
        0,
        2,
    ):  # a third one takes the place of that which was asked for longest ago
        assert reader.read(place, window)[1] is None
    assert images.asked == [0, 1, 2, 0, 2]
    monkeypatch.setattr(tile_reading, "KEPT", 1)
    reader = WindowReader(images)
    images.asked.clear()
    for place in (0, 0, 1, 1, 0):
        reader.read(place, window)
    assert images.asked == [0, 1, 0]


def test_what_is_wrong_with_a_file_is_told_as_of_a_whole_one(tmp_path: Path) -> None:
    dataset = write(tmp_path, "npy")
    tiles = TiledDataset(dataset, TILES)
    np.save(tmp_path / "1.npy", np.zeros((10, 20, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="1.npy is 20x10 pixels, data.json says 200x150"):
        tiles.load(0)
    (tmp_path / "1.npy").unlink()
    with pytest.raises(DataError, match="there is no such image file"):
        tiles.load(0)


def test_what_windows_would_change_is_read_whole(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.full((64, 64, 3), 9, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(32, 32), photometric="rgb")
    options: dict[str, Any] = {"sixteen_bit": "scale"}
    regions = open_windows(tmp_path / "a.tif", reading=ImageReading(), **options)
    assert regions is not None and (regions.read(Window(5, 5, 9, 9)).values == 9).all()
    regions.close()
    contrast = ImageReading(contrast=ContrastConfig())  # by the values of the whole image
    assert open_windows(tmp_path / "a.tif", reading=contrast, **options) is None
    assert open_windows(tmp_path / "none.tif", reading=ImageReading(), **options) is None
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert open_windows(tmp_path / "a.png", reading=ImageReading(), **options) is None
    cv2.imwrite(str(tmp_path / "jpeg.tif"), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 7])
    assert open_windows(tmp_path / "jpeg.tif", reading=ImageReading(), **options) is None
