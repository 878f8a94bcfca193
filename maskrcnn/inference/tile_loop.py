"""Run a model over the windows of a data set's images and collect COCO results of the whole images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from maskrcnn.data.tiles import TiledDataset, TileInfo
from maskrcnn.data.windows import Window
from maskrcnn.inference.clean_masks import Cleaning
from maskrcnn.inference.loop import PredictionProgress, predict_batches
from maskrcnn.inference.paste import Paste
from maskrcnn.inference.records import Result, coco_results
from maskrcnn.inference.tile_merger import Found, TileMerger
from maskrcnn.inference.tta import Views
from maskrcnn.modeling.precision import Precision
from maskrcnn.structures import Batch, Detections, ImageInfo, rle
from maskrcnn.structures.categories import Categories


def whole_record(found: Found, image_id: int, size: tuple[int, int]) -> Result:
    """The COCO record of an object in the frame of the whole image.

    size: (height, width) of that.
    """
    x1, y1, x2, y2 = found.box
    record = {**found.record, "image_id": image_id, "category_id": found.category, "score": found.score}
    record["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    if found.bitmap is not None:
        record["segmentation"] = rle.as_text(rle.encode_crop(found.bitmap, *found.corner, *size))
    if "keypoints" in record:
        shift = (found.window.x, found.window.y, 0)
        record["keypoints"] = [value + shift[i % 3] for i, value in enumerate(record["keypoints"])]
    return record


def predict_tiles(
    model: nn.Module,
    loader: Iterable[Batch],
    device: torch.device | str,
    categories: Categories,
    *,
    dataset: TiledDataset,
    precision: Precision = "float32",
    paste: Paste = "aligned",
    progress: Callable[[PredictionProgress], None] | None = None,
    total: int | None = None,
    keypoint_offset: float = 0.5,
    graphs: bool = True,
    clean: Cleaning | None = None,
    tta: Views | None = None,
) -> list[Result]:
    """COCO result records of the whole images, as :func:`maskrcnn.inference.loop.predict_dataset` gives them.

    Args:
        loader: batches of windows, image by image, each in the grid's order; windows that could not be read
            may be missing.
        dataset: those windows.
        total: number of whole images, for the time left.
        the others: as there.
    """
    start, done = time.perf_counter(), 0
    places = {int(i): place for place, i in enumerate(np.asarray(dataset.whole.image_ids).tolist())}
    results: list[Result] = []
    seen = _windows(
        predict_batches(model, loader, device, precision, graphs, tta),
        lambda info, found, size: coco_results(info, found, size, categories, paste, keypoint_offset, clean),
    )
    current: tuple[int, _Image] | None = None
    for image_id, window, records in seen:
        if current is None or current[0] != image_id:
            if current is not None:
                results += current[1].finish()
                done += 1
                if progress is not None:
                    rate = done / max(time.perf_counter() - start, 1e-9)
                    eta = None if total is None else max(total - done, 0) / rate
                    progress(PredictionProgress(done, total, rate, eta))
            height, width = dataset.whole.sizes[places[image_id]].tolist()
            current = image_id, _Image(image_id, dataset.rows(places[image_id]), (height, width))
        current[1].add(window, records)
    return results + (current[1].finish() if current is not None else [])


def _windows(
    batches: Iterable[tuple[Batch, list[Detections]]],
    records_of: Callable[[ImageInfo, Detections, tuple[int, int]], list[Result]],
) -> Iterator[tuple[int, Window, list[Result]]]:
    """Each window with the id of its image, and its records in its own frame."""
    for batch, detections in batches:
        for image, info, found in zip(batch.images, batch.infos, detections, strict=True):
            assert isinstance(info, TileInfo)
            seen = image.shape[-2], image.shape[-1]
            yield info.image_id, info.window, records_of(info, found.to("cpu"), seen)


class _Image:
    """The windows of one image, of which some may be missing."""

    def __init__(self, image_id: int, rows: Sequence[Sequence[Window]], size: tuple[int, int]) -> None:
        self._id, self._size = image_id, size
        self._ahead = [window for row in rows for window in row][::-1]
        self._merger = TileMerger(rows, size)
        self._records: list[Result] = []

    def add(self, window: Window, records: list[Result]) -> None:
        while self._ahead[-1] != window:
            self._next([])
        self._next(records)

    def finish(self) -> list[Result]:
        """All records, by falling score."""
        while self._ahead:
            self._next([])
        return sorted(self._records, key=lambda record: -float(record["score"]))

    def _next(self, records: list[Result]) -> None:
        self._ahead.pop()
        found = self._merger.add(records)
        self._records += [whole_record(one, self._id, self._size) for one in found]
