"""What reading an image of the training set and transforming it take."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch

from maskrcnn.data import Dataset, apply_transforms
from maskrcnn.errors import UserError
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.benchmark.figures import Loading

#: Images that are loaded to see what loading takes.
_LOADED = 8


@contextmanager
def _one_thread() -> Iterator[None]:
    threads, others = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(others)


def measure_loading(recipe: Recipe, dataset: Dataset) -> Loading:
    """By a few images over the whole set; those that cannot be read are passed over."""
    transforms = setup.build_transforms(recipe, training=True)
    read, changed = [], []
    cache, where = getattr(dataset, "cache", None), np.linspace(0, len(dataset) - 1, _LOADED).astype(int)
    if cache is not None:
        dataset.cache = None  # type: ignore[attr-defined]
    with _one_thread():
        for place in [int(where[0]), *where.tolist()]:  # the first one twice: what it sets up does not count
            began = time.thread_time()
            try:
                sample = dataset.load(place)
            except UserError:
                continue
            middle = time.thread_time()
            apply_transforms(transforms, sample, np.random.default_rng(place)).to_sample()
            read.append(middle - began)
            changed.append(time.thread_time() - middle)
    if cache is not None:
        dataset.cache = cache  # type: ignore[attr-defined]
    if len(read) < 2:
        return Loading(math.nan, math.nan)
    return Loading(statistics.median(read[1:]), statistics.median(changed[1:]))
