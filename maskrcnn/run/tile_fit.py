"""Tiles in which an image's objects are about as large as those that the model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from maskrcnn.data.images import SixteenBit
from maskrcnn.data.regions import Regions
from maskrcnn.data.transforms.network_size import Resize, resize_of
from maskrcnn.data.windows import Window, rows_of_windows
from maskrcnn.errors import DataError
from maskrcnn.inference.tile_parts import clearance
from maskrcnn.recipe import Recipe
from maskrcnn.run.find_images import AnyImage
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.setup import build_transforms
from maskrcnn.run.tiling import LEAST_TILE, Tiling
from maskrcnn.structures.categories import Categories

#: Looks at an image, each with the tiles that the one before found.
_LOOKS = 2
#: Windows of a look at most; it ends with so many objects, and with fewer than so many says nothing.
_WINDOWS, _ENOUGH, _FEW = 12, 50, 8
#: From this score on a detection is taken for an object.
_SURE = 0.5
#: Sizes that differ by no more than this factor are the same.
_ALIKE = 1.1
#: Multiples of a golden section lie spread, however many are taken.
_GOLDEN = (np.sqrt(5) - 1) / 2


class WindowPredictor(Protocol):
    """What predicts the windows: a :class:`maskrcnn.run.predictor.Predictor`."""

    recipe: Recipe
    categories: Categories
    sixteen_bit: SixteenBit

    def tiling(self, size: int | None = None, overlap: float | None = None) -> Tiling:
        """Its tiles."""
        ...

    def stream(self, images: Iterable[AnyImage], *, batch_size: int | None = None) -> Iterator[Prediction]:
        """What is found in each image, in their order."""
        ...


def fit_tiles(
    predictor: WindowPredictor, regions: Regions, tiling: Tiling, batch_size: int | None = None
) -> tuple[Tiling, Mapping[Window, Prediction]]:
    """Tiles for an image, and what was found in those of its windows that were predicted for that.

    Where the median side of the objects in a few windows, as the network sees them, is below the median or
    above the upper quartile of the training's, the tiles are made smaller or larger, so that it comes to lie
    there: small objects are found better when they are enlarged, and larger ones no better.  A median of few
    objects says nothing; nor is there a size where ``data.eval_transforms`` do not bring tiles of all sizes
    to one, so that theirs changes no scale.

    Raises:
        DataError: the image cannot be read there.
    """
    seen: Mapping[Window, Prediction] = {}
    for _ in range(_LOOKS if tiling.sides else 0):
        height, width = regions.size
        windows = [w for row in rows_of_windows(height, width, tiling.size, tiling.overlap) for w in row]
        if len(windows) == 1:
            break
        seen = _look(predictor, regions, windows, batch_size)
        middle = _middle(seen, regions.size)
        size = None if middle is None else _size(predictor.recipe, tiling, middle)
        if middle is None or size is None:
            break
        told = f"so that objects of {middle:.0f} px, the median here, are seen as large as in training"
        tiling, seen = replace(tiling, size=size, told=told), {}
    return tiling, seen


def _size(recipe: Recipe, tiling: Tiling, middle: float) -> int | None:
    """Of tiles whose objects of a side of ``middle`` px come to the training's; None: as they are."""
    resize = resize_of(build_transforms(recipe, training=False), "data.eval_transforms")
    try:
        now = _scale(resize, tiling.size)
        factor = min(max(middle * now, tiling.sides[1]), tiling.sides[2]) / (middle * now)
        size = max(round(tiling.size / factor), LEAST_TILE)
        follows = abs(_scale(resize, size) * size / (now * tiling.size) - 1) < _ALIKE - 1
    except DataError:
        return None
    return size if follows and max(factor, 1 / factor) > _ALIKE else None


def _look(
    predictor: WindowPredictor, regions: Regions, windows: Sequence[Window], batch_size: int | None
) -> dict[Window, Prediction]:
    """What is found in a few windows, which lie all over the image."""
    places = np.floor(len(windows) * ((0.5 + _GOLDEN * np.arange(len(windows))) % 1)).astype(int).tolist()
    chosen = [windows[place] for place in dict.fromkeys(places)][:_WINDOWS]
    found = predictor.stream((regions.read(window) for window in chosen), batch_size=batch_size)
    seen: dict[Window, Prediction] = {}
    objects = 0
    for window, one in zip(chosen, found, strict=False):
        seen[window] = one
        objects += int((one.scores >= _SURE).sum())
        if objects >= _ENOUGH:
            break
    return seen


def _middle(seen: Mapping[Window, Prediction], size: tuple[int, int]) -> float | None:
    """Median side of the objects, pixels of the image; of those that no window cuts, where these are enough;
    None where there are few.
    """
    sides, whole = [], []
    for window, one in seen.items():
        for x1, y1, x2, y2 in one.boxes[one.scores >= _SURE].tolist():
            box = window.x + x1, window.y + y1, window.x + x2, window.y + y2
            sides.append(float(np.sqrt((x2 - x1) * (y2 - y1))))
            whole.append(clearance(box, window, size) > 1)
    kept = [side for side, uncut in zip(sides, whole, strict=True) if uncut]
    kept = kept if len(kept) >= _FEW else sides
    return float(np.median(kept)) if len(kept) >= _FEW else None


def _scale(resize: Resize, side: int) -> float:
    """Network pixels a pixel of a square tile."""
    height, width = resize(side, side)
    return float(np.sqrt(height * width)) / side
