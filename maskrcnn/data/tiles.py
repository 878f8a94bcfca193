"""Images cut into square windows that overlap: what a window holds, and a data set of windows.

Which objects a window trains on is the rule ``data.tiles.keep``: those that lie inside, and of those that its
border cuts the ones of which at least that share of the area is left; of an object larger than the window, of
which at least that share of the window is covered.  Of the others the window shows a part that is background
to it, as at the border of any image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data.fault_report import FaultReport, OnError
from maskrcnn.data.interfaces import DENSEST, TILINGS, Dataset, TilesConfig
from maskrcnn.data.tile_reading import WindowReader
from maskrcnn.data.transforms.moving import crop_to
from maskrcnn.data.windows import Window, rows_of_windows
from maskrcnn.structures import ImageInfo, KeypointSchema, RawSample
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.ground_truth import GroundTruth


@dataclass(frozen=True)
class TileInfo(ImageInfo):
    """Of a window: the id and name of its image, its own size, and where in the image it lies."""

    window: Window


def cut(sample: RawSample, window: Window, keep: float) -> RawSample:
    """The sample in a window, with the objects that the rule of this module keeps; its info is a
    :class:`TileInfo`.
    """
    x1, y1, x2, y2 = window.box
    boxes = sample.targets.boxes
    edges = boxes.new_tensor([x1, y1, x2, y2])
    meets = (boxes[:, :2] < edges[2:]).all(1) & (boxes[:, 2:] > edges[:2]).all(1)
    whole = (boxes[:, :2] >= edges[:2]).all(1) & (boxes[:, 2:] <= edges[2:]).all(1)
    targets = sample.targets.select(meets)
    kept = whole[meets]
    for i in (~kept).nonzero()[:, 0].tolist():
        if targets.masks is None:
            box = targets.boxes[i]
            inside = float((torch.minimum(box[2:], edges[2:]) - torch.maximum(box[:2], edges[:2])).prod())
            area = float((box[2:] - box[:2]).prod())
        else:
            tile, x0, y0 = targets.masks.tile(i)
            part = tile[max(y1 - y0, 0) : max(y2 - y0, 0), max(x1 - x0, 0) : max(x2 - x0, 0)]
            inside, area = float(part.sum()), float(tile.sum())
        kept[i] = inside >= keep * min(area, window.width * window.height) and inside > 0
    info = TileInfo(sample.info.image_id, sample.info.file_name, window.height, window.width, window=window)
    sample = replace(sample, targets=targets.select(kept), info=info)
    return crop_to(sample, x1, y1, window.width, window.height, 1.0)


@TILINGS.register("grid")
class TiledDataset:
    """The windows of a data set's images as images of their own, T of them, row by row of each image.

    Files are read as :class:`maskrcnn.data.tile_reading.WindowReader` does.

    Args:
        dataset: the images; what is kept of them, reported and cached stays its own.
        tiles: the grid and the rule.
        training: leave out windows that no object lies in, unless ``tiles.empty``.
    """

    def __init__(self, dataset: Dataset, tiles: TilesConfig, training: bool = True) -> None:
        self.whole = dataset
        self._tiles = tiles
        found: list[tuple[int, Window]] = []
        for image, (height, width) in enumerate(np.asarray(dataset.sizes).tolist()):
            for row in rows_of_windows(height, width, tiles.size, tiles.overlap):
                found += [(image, window) for window in row]
        windows = np.array([window for _, window in found], dtype=np.int64).reshape(-1, 4)
        images = np.array([image for image, _ in found], dtype=np.int64)
        if training and not tiles.empty:
            kept = _with_objects(dataset, images, windows, tiles.keep)
            if kept.any():
                images, windows = images[kept], windows[kept]
        #: int64 [T], place of each window's image.
        self.images: npt.NDArray[np.int64] = images
        self._windows = windows
        self.sizes: npt.NDArray[np.int32] = windows[:, [3, 2]].astype(np.int32)
        self.image_ids: npt.NDArray[np.int64] = np.asarray(dataset.image_ids, dtype=np.int64)[images]
        self._reader = WindowReader(dataset)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def categories(self) -> Categories:
        return self.whole.categories

    @property
    def annotation_file(self) -> Path:
        return self.whole.annotation_file

    @property
    def keypoints(self) -> KeypointSchema | None:
        return self.whole.keypoints

    @property
    def report(self) -> FaultReport:
        return self.whole.report

    @property
    def on_error(self) -> OnError:
        return self.whole.on_error

    def ground_truth(self) -> GroundTruth:
        """That of the whole images."""
        return self.whole.ground_truth()

    def window(self, index: int) -> Window:
        """Where window ``index`` in [0, T) lies in its image."""
        return Window(*self._windows[index].tolist())

    def rows(self, image: int) -> list[list[Window]]:
        """The grid of the image at a place of the whole data set, left out windows among it."""
        height, width = self.whole.sizes[image].tolist()
        return rows_of_windows(height, width, self._tiles.size, self._tiles.overlap)

    def load(self, index: int) -> RawSample:
        """Window ``index`` in [0, T) with its objects, in its own frame.

        Raises:
            DataError: see the data set of the images.
        """
        window = self.window(index)
        whole, pixels = self._reader.read(int(self.images[index]), window)
        sample = cut(whole, window, self._tiles.keep)
        return sample if pixels is None else replace(sample, image=pixels)

    @cached_property
    def places(self) -> dict[int, list[int]]:
        """The windows of each image that has some, by the place of the image."""
        found: dict[int, list[int]] = {}
        for index, image in enumerate(self.images.tolist()):
            found.setdefault(image, []).append(index)
        return found


@DENSEST.register("grid")
def densest(dataset: Dataset, tiles: TilesConfig) -> npt.NDArray[np.int64]:
    """How many objects have their centres in the fullest window of each image [N]; crowd regions are none."""
    out = np.zeros(len(dataset), dtype=np.int64)
    for image, boxes in enumerate(_boxes(dataset)):
        middle = boxes[:, :2] + boxes[:, 2:] / 2
        height, width = dataset.sizes[image].tolist()
        for row in rows_of_windows(height, width, tiles.size, tiles.overlap):
            for x1, y1, x2, y2 in (window.box for window in row):
                inside = ((middle >= [x1, y1]) & (middle < [x2, y2])).all(1)
                out[image] = max(int(out[image]), int(inside.sum()))
    return out


def _boxes(dataset: Dataset) -> list[npt.NDArray[np.float64]]:
    """The boxes of each image [n, 4], x, y, width, height, without crowd regions."""
    truth = dataset.ground_truth()
    rows = np.flatnonzero(~truth.crowds)
    rows = rows[np.argsort(truth.images[rows], kind="stable")]
    ends = np.cumsum(np.bincount(truth.images[rows], minlength=len(truth.image_ids)))
    places = [truth.image_places[int(image_id)] for image_id in dataset.image_ids]
    return [truth.boxes[rows[ends[place - 1] if place else 0 : ends[place]]] for place in places]


def _with_objects(
    dataset: Dataset, images: npt.NDArray[np.int64], windows: npt.NDArray[np.int64], keep: float
) -> npt.NDArray[np.bool_]:
    """Which windows [T] hold an object, judged by its box (the rule itself takes the mask)."""
    kept = np.zeros(len(windows), dtype=np.bool_)
    of_images = _boxes(dataset)
    for index, (x, y, width, height) in enumerate(windows.tolist()):
        boxes = of_images[images[index]]
        low = np.maximum(boxes[:, :2], [x, y])
        high = np.minimum(boxes[:, :2] + boxes[:, 2:], [x + width, y + height])
        inside = np.clip(high - low, 0, None).prod(1)
        least = keep * np.minimum(boxes[:, 2:].prod(1), width * height)
        kept[index] = bool(((inside >= least) & (inside > 0)).any())
    return kept
