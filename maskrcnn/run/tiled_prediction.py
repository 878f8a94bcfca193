"""Prediction of images of any size: windows through the model, objects over the whole image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.interfaces import RGB
from maskrcnn.data.regions import Pixels, Regions, open_regions
from maskrcnn.data.transforms.network_size import resize_of
from maskrcnn.data.windows import Window, rows_of_windows
from maskrcnn.errors import DataError
from maskrcnn.inference.loop import PredictionProgress
from maskrcnn.inference.records import Result
from maskrcnn.inference.tile_loop import whole_record
from maskrcnn.inference.tile_merger import TileMerger
from maskrcnn.recipe import Recipe
from maskrcnn.run.find_images import AnyImage, ImagePage
from maskrcnn.run.fit_doubts import SMALL
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.setup import build_transforms, keypoint_scores
from maskrcnn.run.tile_fit import WindowPredictor, fit_tiles
from maskrcnn.run.tiling import Tiling
from maskrcnn.structures.rle import MOST_PIXELS
from maskrcnn.viz.instances import as_rgb

#: Pixels of an image that is kept whole with its prediction, so that it can be drawn (200 MB).
HELD = 1 << 26
#: Frames of a video that are held until its tiles are chosen.
_FIRST = 8


def predict_tiled(
    predictor: WindowPredictor,
    image: AnyImage,
    *,
    size: int | None = None,
    overlap: float | None = None,
    tiling: Tiling | None = None,
    batch_size: int | None = None,
    progress: Callable[[PredictionProgress], object] | None = None,
) -> Prediction:
    """The instances of an image of any size, in its own frame; it is never held whole, but for formats that
    are (see :mod:`maskrcnn.data.regions`).

    Args:
        image: as :meth:`Predictor.__call__` takes it.
        size, overlap: of the tiles, see :func:`maskrcnn.run.tiling.choose_tiling`; or ``tiling``, in place.
        batch_size: tiles a pass, as ``Predictor.predict``.
        progress: called after each tile.

    Returns:
        with the image itself where it has at most :data:`HELD` pixels.

    Raises:
        DataError: the file cannot be read, or has more pixels than run-length masks can count.
    """
    regions = _open(predictor, image)
    tiling, (seen,) = fit_tiles(predictor, [regions], tiling or predictor.tiling(size, overlap), batch_size)
    name = "" if isinstance(image, np.ndarray | Pixels) else str(image)
    return _predicted(predictor, regions, name, tiling, seen, batch_size, progress)


def _predicted(
    predictor: WindowPredictor,
    regions: Regions,
    name: str,
    tiling: Tiling,
    seen: Mapping[Window, Prediction],
    batch_size: int | None,
    progress: Callable[[PredictionProgress], object] | None,
) -> Prediction:
    """An open image by tiles that are chosen, where some windows are predicted already."""
    height, width = regions.size
    rows = rows_of_windows(height, width, tiling.size, tiling.overlap)
    windows = [window for row in rows for window in row]
    merger, records, capped = TileMerger(rows, regions.size), list[Result](), False
    tiles = _in_turn(predictor, regions, windows, seen, batch_size)
    numbers: tuple[str, ...] = ()
    start = time.perf_counter()
    for done, tile in enumerate(tiles, start=1):
        capped |= tile.capped
        numbers = tuple(name for name, values in tile.extras.items() if values.ndim == 1)
        records += [whole_record(found, 0, regions.size) for found in merger.add(tile.records)]
        if progress is not None:
            rate = done / max(time.perf_counter() - start, 1e-9)
            progress(PredictionProgress(done, len(windows), rate, (len(windows) - done) / rate))
    records.sort(key=lambda record: -float(record["score"]))
    boxes = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    recipe, categories = predictor.recipe, predictor.categories
    keypoints = None
    if recipe.model.keypoint_head is not None:
        rows_of_points = [np.reshape(r["keypoints"], (-1, 3)) for r in records]
        offset = [recipe.eval.keypoint_offset] * 2 + [0.0]
        keypoints = np.array(rows_of_points).reshape(len(records), -1, 3) + offset
    return Prediction(
        image=as_rgb(regions.read(Window(0, 0, width, height)).values) if height * width <= HELD else None,
        boxes=boxes,
        scores=np.array([r["score"] for r in records], dtype=np.float64),
        labels=np.array([categories.index_of(r["category_id"]) for r in records], dtype=np.int64),
        records=records,
        names=categories.names,
        keypoints=keypoints,
        keypoint_scores=keypoint_scores(recipe),
        extras={name: np.array([r[name] for r in records], dtype=np.float64) for name in numbers},
        size=regions.size,
        name=name,
        capped=capped,
        small=_small(recipe, boxes, rows[0][0]),
        tile=tiling.size,
    )


def _in_turn(
    predictor: WindowPredictor,
    regions: Regions,
    windows: Sequence[Window],
    seen: Mapping[Window, Prediction],
    batch_size: int | None,
) -> Iterator[Prediction]:
    """What is found in each window, of which some are done."""
    left = (regions.read(window) for window in windows if window not in seen)
    rest = predictor.stream(left, batch_size=batch_size)
    for window in windows:
        yield seen[window] if window in seen else next(rest)


def tiled_frames(
    predictor: WindowPredictor,
    frames: Iterable[AnyImage],
    tiling: Tiling,
    *,
    batch_size: int | None = None,
    progress: Callable[[PredictionProgress], object] | None = None,
) -> Iterator[Prediction]:
    """:func:`predict_tiled` of a video's frames, one after the other, by tiles of one size: that of the first
    :data:`_FIRST` frames that show objects enough together.
    """
    left, place = iter(frames), 0
    while held := [_open(predictor, frame) for frame in islice(left, _FIRST if tiling.sides else 1)]:
        tiling, seen = fit_tiles(predictor, held, tiling, batch_size)
        for regions, found in zip(held, seen, strict=True):
            one = _predicted(predictor, regions, "", tiling, found, batch_size, progress)
            yield one.with_image_id(place)
            place += 1


def tiled_stream(
    predictor: WindowPredictor,
    images: Iterable[AnyImage],
    skipped: Callable[[AnyImage, DataError], None] | None = None,
    **options: Any,
) -> Iterator[Prediction]:
    """:func:`predict_tiled` of one image after the other, as ``Predictor.stream`` gives them."""
    for place, image in enumerate(images):
        try:
            yield predict_tiled(predictor, image, **options).with_image_id(place)
        except DataError as error:
            if skipped is None:
                raise
            skipped(image, error)


def _open(predictor: WindowPredictor, image: AnyImage) -> Regions:
    reading = predictor.recipe.data.reading
    page = 0
    name = "the image" if isinstance(image, np.ndarray | Pixels) else str(image)
    if isinstance(image, Pixels):
        regions = open_regions(image)
    elif isinstance(image, np.ndarray):
        if reading == RGB and image.dtype != np.uint8:  # as in Predictor, whose arrays have no 16 bits
            raise DataError(
                f"an image is uint8 [H, W, 3] RGB or [H, W] gray, got {image.dtype} {image.shape}"
            )
        regions = open_regions(image, sixteen_bit=predictor.sixteen_bit, reading=reading)
    else:
        if isinstance(image, ImagePage):
            page, image, reading = image.page, image.path, replace(reading, pages="images")
        path = Path(image)
        regions = open_regions(path, sixteen_bit=predictor.sixteen_bit, reading=reading, page=page)
    height, width = regions.size
    if height * width >= MOST_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} pixels, and masks in COCO's run-length code count"
            f" fewer than {MOST_PIXELS:,}; cut it into parts"
        )
    return regions


def _small(recipe: Recipe, boxes: npt.NDArray[np.float64], tile: Window) -> int:
    """How many boxes the network saw below :data:`SMALL` pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    try:
        resize = resize_of(build_transforms(recipe, training=False), "data.eval_transforms")
        height, width = resize(tile.height, tile.width)
    except DataError:
        return 0
    seen = sides.prod(1) * (height * width / (tile.height * tile.width))
    return int((seen < SMALL**2).sum())
