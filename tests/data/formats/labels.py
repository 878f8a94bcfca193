"""Data sets in other formats, made small for the tests, and what importing them gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from maskrcnn.data import CocoDataset
from maskrcnn.data.formats.sources import LabelSource
from maskrcnn.recipe import DataConfig
from maskrcnn.run.data_argument import read_data_argument
from maskrcnn.run.import_data import Imported, import_data

SIZE = (40, 60)
"""(height, width) of the pictures."""


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """A picture at ``path``, of a colour that its name decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = sum(path.name.encode()) % 200
    assert cv2.imwrite(str(path), np.full((*size, 3), colour, dtype=np.uint8))
    return path


def plane(path: Path, pixels: np.ndarray) -> Path:
    """An image file of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def ring(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of two parts, one of them with a hole: uint8 0/1."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[5:25, 5:30] = 1
    mask[10:15, 12:20] = 0
    mask[30:33, 40:50] = 1
    return mask


def imported(labels: Path, out: Path, images: Path | None = None, **options: Any) -> Imported:
    """What the command makes of ``labels``."""
    keys = ("format", "copy", "overwrite")
    given = {key: options.pop(key) for key in keys if key in options}
    return import_data(LabelSource(labels, images, **options), out, **given)


def datasets(config: DataConfig | Path) -> dict[str, CocoDataset]:
    """The data sets of a folder of ours, where no record is at fault."""
    data = read_data_argument(config) if isinstance(config, Path) else config
    configs = {"train": data.train, "val": data.val}
    built = {name: c.build(False, on_error="raise") for name, c in configs.items() if c is not None}
    for dataset in built.values():
        assert isinstance(dataset, CocoDataset) and not dataset.report, dataset.report.summary()
        for i in range(len(dataset)):
            dataset.load(i)
    return built  # type: ignore[return-value]


def objects(dataset: CocoDataset) -> dict[str, list[tuple[str, bool, np.ndarray]]]:
    """By file name, class, crowd flag and bitmap of each object, in the order of the file."""
    from maskrcnn.structures import rle

    truth = dataset.ground_truth()
    assert truth.encode is not None
    found: dict[str, list[tuple[str, bool, np.ndarray]]] = {}
    for i in range(len(dataset)):
        found[dataset.index.info(int(dataset.kept[i])).file_name] = []
    for row, image in enumerate(truth.images.tolist()):
        name = dataset.index.info(image).file_name
        label = truth.category_names[int(truth.labels[row])]
        found[name].append((label, bool(truth.crowds[row]), rle.decode(truth.encode(row))))
    return found


def same(a: Mapping[str, list[Any]], b: Mapping[str, list[Any]]) -> None:
    """Both hold the same objects in the same order, masks equal to the pixel."""
    assert a.keys() == b.keys()
    for name in a:
        assert [x[:2] for x in a[name]] == [x[:2] for x in b[name]], name
        assert all(np.array_equal(x[2], y[2]) for x, y in zip(a[name], b[name], strict=True)), name
