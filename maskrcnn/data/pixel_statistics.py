"""Mean and deviation of each channel of a data set's images, for ``model.preprocess``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskrcnn.data.interfaces import Dataset

#: Images that are read, evenly over the set: their means differ by far less than one image from another.
MOST_IMAGES = 500


@dataclass(frozen=True)
class PixelStatistics:
    """Of each channel, in 0..255, as the network takes images; over ``images`` of them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int


def pixel_statistics(dataset: Dataset, most: int = MOST_IMAGES) -> PixelStatistics:
    """Read at most so many images; each pixel counts once.

    A deviation below 1 counts as 1, so that a channel that is always the same is not blown up.

    Raises:
        DataError: an image cannot be read.
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int))
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for place in places.tolist():
        values = dataset.load(place).image
        values = values.reshape(-1, values.shape[2]).astype(np.float64)
        count += len(values)
        total = total + values.sum(0)
        squares = squares + np.square(values).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)).clip(1)
    return PixelStatistics(tuple(mean.round(3).tolist()), tuple(std.round(3).tolist()), len(places))
