"""What holds a training up, and what to change."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from maskrcnn.engine.memory import free_memory
from maskrcnn.recipe import Recipe
from maskrcnn.run.benchmark.figures import PARTS, Benchmark
from maskrcnn.run.image_caching import needed
from maskrcnn.run.room import in_words
from maskrcnn.run.setup import Data

#: A step waits for its images where they take more than this share of it.
_DATA_BOUND = 0.1
#: The host holds a GPU up where that works for less than this share of a step.
_BUSY = 0.8


def advise(found: Benchmark, recipe: Recipe, data: Data) -> str:
    """What holds a training up, and what to change; a sentence."""
    total = sum(found.parts.values())
    share = found.parts["data"] / total
    if share > _DATA_BOUND:
        return (
            f"data bound: {share:.0%} of a step is the wait for images;"
            f" {_more_images(found, recipe, data, found.seconds - found.parts['data'])}"
        )
    if found.busy is not None and found.busy < _BUSY:
        ways = ["a larger solver.batch_size"]
        if not recipe.solver.compile:
            ways.insert(0, "solver.compile: true")
        return (
            f"host bound: the GPU works for {found.busy:.0%} of a step, and waits for the host else; try"
            f" {' and '.join(ways)}"
        )
    what = max(PARTS[1:4], key=lambda name: found.parts[name])
    half = "; solver.precision: bfloat16 may be faster" if found.precision == "float32" else ""
    return f"compute bound: images are there in time, and the {what} pass takes most{half}"


def _more_images(found: Benchmark, recipe: Recipe, data: Data, step: float) -> str:
    """What to do about images that come too late, for a step that takes ``step`` seconds without them."""
    loading, cores = found.loading, os.cpu_count() or 1
    an_image = loading.read + loading.changed
    ways = []
    wanted = math.ceil(found.batch / found.ranks * an_image / step) + 1 if an_image == an_image else 1
    most = max(cores // found.ranks - (1 if found.device == "CPU" else 0), 1)
    if found.workers < min(wanted, most):
        ways.append(f"set data.workers to {min(wanted, most)} (now {found.workers}; {wanted} would keep up)")
    if recipe.data.cache == "none" and loading.read > loading.changed / 4:
        sets: list[Any] = [part for part in (data.train, data.val) if part is not None]
        if all(hasattr(part, "cache") for part in sets):
            size = sum(int(needed(recipe, part).sum()) for part in sets)
            kind = "ram" if size < free_memory(cuda=False) / 2 else "disk"
            ways.append(
                f"set data.cache to {kind} (reading and decoding are {loading.read / an_image:.0%} of the"
                f" loading, and the decoded images take {in_words(size)})"
            )
    larger = np.median(np.asarray(data.train.sizes).max(1)) > 1.5 * max(found.size)
    if larger:
        ways.append("store the images smaller: they are shrunk on loading")
    if not ways:
        ways.append("use fewer or simpler data.train_transforms, or a machine with more cores")
    return "; ".join(ways)
