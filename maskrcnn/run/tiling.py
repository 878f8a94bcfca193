"""Which tiles an image is predicted by: as a model was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.transforms.network_size import resize_of
from maskrcnn.errors import DataError, UserError
from maskrcnn.recipe import Recipe
from maskrcnn.run.fit_doubts import object_sides
from maskrcnn.run.setup import build_transforms, median_size

#: Overlap where neither the call nor the recipe says one, a share of the tile's side.
OVERLAP = 0.2
#: Tiles are no smaller, pixels.
LEAST_TILE = 64
#: A side that is tried to find the network's own.
_PROBE = 1024


@dataclass(frozen=True)
class Tiling:
    """size: side of a tile, pixels of the image.  overlap: share of it.  told: where the size is from.

    sides: lower quartile, median and upper quartile of the sides of the objects trained on, network pixels:
        an image whose objects are seen smaller or larger has tiles of another size; empty: as it is.
    """

    size: int
    overlap: float
    told: str
    sides: tuple[float, ...] = ()

    def __str__(self) -> str:
        fitted = "; smaller or larger where an image's objects are" if self.sides else ""
        return f"{self.size} px, which overlap by {self.overlap:.0%} ({self.told}{fitted})"


def choose_tiling(
    recipe: Recipe,
    image_size: Sequence[int],
    size: int | None = None,
    overlap: float | None = None,
    sides: Sequence[float] = (),
) -> Tiling:
    """The tiles of a prediction: as asked for, else as the model was trained: on tiles (``data.tiles``), or
    on images, whose objects are as large in tiles of the images' shorter side; those of other sizes in tiles
    that :func:`maskrcnn.run.tile_fit.fit_tiles` finds.

    Args:
        image_size: median (height, width) of the training images; empty where that is not known: then tiles
            enter the network at their own size (``data.eval_transforms``).
        sides: see :class:`Tiling`; empty where that is not known.
    """
    tiles, told = recipe.data.tiles, "--tiles"
    fitted = tuple(sides) if size is None and tiles is None else ()
    if size is None and tiles is not None:
        size, told = tiles.size, "data.tiles"
    if size is None and image_size:
        size, told = max(min(image_size), LEAST_TILE), "the shorter side of the training images (median)"
    if size is None:
        size, told = _network_side(recipe), "data.eval_transforms, so that they are not scaled"
    if overlap is None:
        overlap = OVERLAP if tiles is None else tiles.overlap
    return Tiling(size, overlap, told, fitted)


def training_sizes(recipe: Recipe) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Median (height, width) of the training images and :attr:`Tiling.sides` of their objects, as their
    annotations say; empty where they are not here.

    For checkpoints that do not say it themselves.
    """
    file = getattr(recipe.data.train, "annotations", None)
    if file is None or not Path(file).is_file():
        return (), ()
    try:
        dataset = recipe.data.build(recipe.data.train, True)
        return median_size(dataset), object_sides(dataset, recipe)
    except UserError:
        return (), ()


def _network_side(recipe: Recipe) -> int:
    """Of squares that ``data.eval_transforms`` leave as they are."""
    resize = resize_of(build_transforms(recipe, training=False), "data.eval_transforms")
    try:
        own = max(resize(_PROBE, _PROBE))
        return own if resize(own, own) == (own, own) else _PROBE
    except DataError:
        return _PROBE
