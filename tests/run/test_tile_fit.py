"""Tiles follow the size of an image's objects, where the transforms let them; no window is seen twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.regions import open_regions
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.tile_fit import fit_tiles
from maskrcnn.run.tiled_prediction import predict_tiled, tiled_frames
from maskrcnn.run.tiling import Tiling
from maskrcnn.structures import rle
from maskrcnn.structures.categories import Categories
from tests.engine.tiny import write_recipe

#: Side of the image, of its objects, and of the cell that each has to itself, pixels.
SIDE, OBJECT, CELL = 800, 20, 50
RESIZED = "data.eval_transforms=[{type: resize_shortest_edge, min_sizes: [128]}]"


def picture() -> Any:
    """Pixels that tell their place: red x, green y, blue the rest of both."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=2).astype(np.uint8)


class Finder:
    """Finds squares, one a cell, of what a window shows of them; counts the windows that it was asked for."""

    categories = Categories((1,), ("square",))
    sixteen_bit: Any = "scale"

    def __init__(self, recipe: Recipe, tiling: Tiling, cells: int = SIDE // CELL) -> None:
        self.recipe, self._tiling, self._cells, self.asked = recipe, tiling, cells, 0

    def tiling(self, size: int | None = None, overlap: float | None = None) -> Tiling:
        return self._tiling

    def stream(self, images: Iterable[Any], *, batch_size: int | None = None) -> Iterator[Prediction]:
        for image in images:
            self.asked += 1
            yield self._find(image.values)

    def _find(self, pixels: Any) -> Prediction:
        red, green, blue = pixels[0, 0].tolist()
        x0, y0, (height, width) = red + 256 * (blue % 16), green + 256 * (blue // 16), pixels.shape[:2]
        records = []
        for place in range(self._cells**2):
            x, y = (CELL * v + 15 for v in (place % self._cells, place // self._cells))
            left, top = max(x - x0, 0), max(y - y0, 0)
            right, bottom = min(x + OBJECT - x0, width), min(y + OBJECT - y0, height)
            if left < right and top < bottom:
                mask = np.ones((bottom - top, right - left), dtype=np.uint8)
                code = rle.as_text(rle.encode_crop(mask, left, top, height, width))
                box = [float(v) for v in (left, top, right - left, bottom - top)]
                one = {"image_id": 0, "category_id": 1, "score": 0.9, "bbox": box, "segmentation": code}
                records.append(one)
        boxes = np.array([r["bbox"] for r in records]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.zeros(len(records), dtype=np.int64)
        return Prediction(pixels, boxes, np.full(len(records), 0.9), labels, records, ("square",))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("fit"))


def finder(
    config: Path, sides: tuple[float, ...], transforms: str = RESIZED, cells: int = SIDE // CELL
) -> Finder:
    return Finder(load_recipe(config, [transforms]), Tiling(128, 0.2, "as trained", sides), cells)


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ((15.0, 20.0, 25.0), 128),  # as the training's: 20 px a tile of 128 px
        ((10.0, 15.0, 21.0), 128),
        ((19.0, 30.0, 40.0), 85),  # below the median
        ((4.0, 8.0, 10.0), 256),  # half as large for the network: a tile twice as large
        ((5.0, 6.0, 6.4), 400),
        ((30.0, 35.0, 40.0), 73),
        ((60.0, 70.0, 80.0), 64),  # no smaller
    ],
)
def test_objects_come_to_the_training_s_size(config: Path, sides: tuple[float, ...], size: int) -> None:
    found = predict_tiled(finder(config, sides), picture())
    assert found.tile == pytest.approx(size, rel=0.02)
    assert len(found) == (SIDE // CELL) ** 2
    assert {tuple(r["bbox"][2:]) for r in found.records} == {(OBJECT, OBJECT)}


def test_windows_that_were_looked_at_are_not_predicted_again(config: Path) -> None:
    looks = finder(config, (15.0, 20.0, 25.0))
    found = predict_tiled(looks, picture())
    plain = finder(config, ())
    assert predict_tiled(plain, picture()).records == found.records
    assert looks.asked == plain.asked == 64
    tiling, (seen,) = fit_tiles(looks, [open_regions(picture())], looks.tiling())
    assert tiling.told == "as trained" and 1 <= len(seen) < 64


def test_few_objects_and_transforms_that_do_not_scale_say_nothing(config: Path) -> None:
    for one in (
        finder(config, (5.0, 6.0, 7.0), cells=2),
        finder(config, (5.0, 6.0, 7.0), "data.eval_transforms=[]"),
    ):
        assert fit_tiles(one, [open_regions(picture())], one.tiling())[0].size == 128


def test_an_image_of_one_tile_is_not_looked_at(config: Path) -> None:
    one = finder(config, (5.0, 6.0, 7.0))
    tiling, (seen,) = fit_tiles(one, [open_regions(picture()[:100, :100])], one.tiling())
    assert (tiling.size, dict(seen), one.asked) == (128, {}, 0)


def test_objects_are_small_as_the_network_sees_them_in_tiles(config: Path) -> None:
    """Tiles of 128 px as 32: 20 px are 5; as 64: 10."""
    smaller, larger = (RESIZED.replace("128", str(side)) for side in (32, 64))
    assert predict_tiled(finder(config, (), smaller), picture()).small == (SIDE // CELL) ** 2
    assert predict_tiled(finder(config, (), larger), picture()).small == 0


class Film(Finder):
    """Finds nothing in black frames, and in those of a blue from 128 on squares of half the side."""

    def _find(self, pixels: Any) -> Prediction:
        late = pixels[0, 0, 2] >= 128
        found = super()._find(pixels % np.array([256, 256, 128]))
        kept = slice(None if pixels.any() else 0)
        low = found.boxes[kept, :2]
        boxes = np.hstack([low, low + (found.boxes[kept, 2:] - low) / (2 if late else 1)])
        parts = {"scores": found.scores[kept], "labels": found.labels[kept], "records": found.records[kept]}
        return replace(found, boxes=boxes, **parts)


def test_the_frames_of_a_video_have_tiles_of_one_size(config: Path) -> None:
    """One object a frame says nothing by itself; those of the first frames that show some do."""
    small = picture()[:200, :200]
    frames = [*[np.zeros_like(small)] * 8, *[small] * 8, *[small + np.uint8([0, 0, 128])] * 4]
    film = Film(load_recipe(config, [RESIZED]), Tiling(128, 0.2, "as trained", (19.0, 30.0, 40.0)), cells=1)
    found = list(tiled_frames(film, frames, film.tiling()))
    assert [one.image_id for one in found] == list(range(20))
    assert [one.tile for one in found] == [128] * 8 + [85] * 12
    assert [len(one) for one in found] == [0] * 8 + [1] * 12
    assert {predict_tiled(film, frame).tile for frame in frames} == {128}
    many = Film(film.recipe, film.tiling())
    alone = [predict_tiled(many, frame).tile for frame in (frames[-5], frames[-1])]
    assert alone == [85, 64] != [one.tile for one in tiled_frames(many, frames[-5:], film.tiling())][:2]
