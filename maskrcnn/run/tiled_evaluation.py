"""How images are judged by a model that is trained on windows of them (``data.tiles``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from maskrcnn.data import Dataset
from maskrcnn.data.loader import BatchLoader, eval_loader
from maskrcnn.data.tiles import TiledDataset
from maskrcnn.data.windows import count_windows
from maskrcnn.engine.distributed import Ranks
from maskrcnn.errors import UserError
from maskrcnn.inference.records import Result
from maskrcnn.inference.tile_loop import predict_tiles
from maskrcnn.recipe import Recipe
from maskrcnn.run.setup import build_transforms, worker_count


def tile_batches(
    dataset: Dataset, recipe: Recipe, ranks: Ranks
) -> tuple[BatchLoader, Callable[..., list[Result]], int]:
    """The windows of this rank's images, what predicts them in place of ``predict_dataset``, and how many
    detections an image may have: those of all its windows.

    Raises:
        UserError: the recipe has no tiles, or a model without RPN.
    """
    if recipe.data.tiles is None:
        raise UserError("data.tiles is not set")
    if recipe.model.rpn is None:
        raise UserError(
            "data.tiles is set, and the model has no RPN (model.rpn: null), and its proposals are of whole"
            " images; leave data.tiles out"
        )
    tiles = TiledDataset(dataset, recipe.data.tiles, training=False)
    mine = range(ranks.rank, len(dataset), ranks.size)
    loader = eval_loader(
        tiles,
        build_transforms(recipe, training=False),
        batch_size=recipe.eval.batch_size,
        workers=worker_count(recipe, ranks),
        places=[place for image in mine for place in tiles.places[image]],
    )
    return loader, partial(predict_tiles, dataset=tiles), most_detections(dataset, recipe)


def most_detections(dataset: Dataset, recipe: Recipe) -> int:
    """How many an image may have: as many as the model lets an image, or each of its windows, have."""
    tiles, most = recipe.data.tiles, recipe.model.roi.max_detections
    if tiles is None:
        return most
    sizes = np.unique(np.asarray(dataset.sizes), axis=0).tolist()
    return most * max(count_windows(height, width, tiles.size, tiles.overlap) for height, width in sizes)
