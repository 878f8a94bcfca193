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
    predictor: WindowPredictor, images: Sequence[Regions], tiling: Tiling, batch_size: int | None = None
) -> tuple[Tiling, list[Mapping[Window, Prediction]]]:
    """Tiles for an image, or for several that are alike, and what was found in those of the windows of each
    that were predicted for that.

    Where the median side of the objects in a few windows, as the network sees them, is below the median or
    above the upper quartile of the training's, the tiles are made smaller or larger, so that it comes to lie
    there: small objects are found better when they are enlarged, and larger ones no better.  A median of few
    objects says nothing; nor is there a size where ``data.eval_transforms`` do not bring tiles of all sizes
    to one, so that theirs changes no scale.

    Returns:
        the tiles; with no ``sides`` once there were objects enough, so that they fit all that is alike.

    Raises:
        DataError: an image cannot be read there.
    """
    nothing: list[Mapping[Window, Prediction]] = [{} for _ in images]
    seen, sides = nothing, tiling.sides
    for _ in range(_LOOKS if tiling.sides else 0):
        seen = _look(predictor, images, tiling, batch_size)
        middle = _middle(images, seen)
        if middle is None:
            break
        sides = ()
        size = _size(predictor.recipe, tiling, middle)
        if size is None:
            break
        told = f"so that objects of {middle:.0f} px, the median here, are seen as large as in training"
        tiling, seen = replace(tiling, size=size, told=told), nothing
    return replace(tiling, sides=sides), seen


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
    predictor: WindowPredictor, images: Sequence[Regions], tiling: Tiling, batch_size: int | None
) -> list[Mapping[Window, Prediction]]:
    """What is found in a few windows of each image, which lie all over it, until there are objects enough."""
    out: list[Mapping[Window, Prediction]] = []
    objects = 0
    for regions in images:
        rows = rows_of_windows(*regions.size, tiling.size, tiling.overlap)
        windows = [window for row in rows for window in row]
        places = np.floor(len(windows) * ((0.5 + _GOLDEN * np.arange(len(windows))) % 1)).astype(int)
        chosen = [windows[place] for place in dict.fromkeys(places.tolist())][:_WINDOWS]
        if len(windows) == 1 or objects >= _ENOUGH:
            chosen = []
        found = predictor.stream(map(regions.read, chosen), batch_size=batch_size)
        seen: dict[Window, Prediction] = {}
        for window, one in zip(chosen, found, strict=False):
            seen[window] = one
            objects += int((one.scores >= _SURE).sum())
            if objects >= _ENOUGH:
                break
        out.append(seen)
    return out


def _middle(images: Sequence[Regions], seen: Sequence[Mapping[Window, Prediction]]) -> float | None:
    """Median side of the objects, pixels of the image; of those that no window cuts, where these are enough;
    None where there are few.
    """
    sides, whole = [], []
    for regions, of_image in zip(images, seen, strict=True):
        for window, one in of_image.items():
            for x1, y1, x2, y2 in one.boxes[one.scores >= _SURE].tolist():
                box = window.x + x1, window.y + y1, window.x + x2, window.y + y2
                sides.append(float(np.sqrt((x2 - x1) * (y2 - y1))))
                whole.append(clearance(box, window, regions.size) > 1)
    kept = [side for side, uncut in zip(sides, whole, strict=True) if uncut]
    kept = kept if len(kept) >= _FEW else sides
    return float(np.median(kept)) if len(kept) >= _FEW else None


def _scale(resize: Resize, side: int) -> float:
    """Network pixels a pixel of a square tile."""
    height, width = resize(side, side)
    return float(np.sqrt(height * width)) / side
