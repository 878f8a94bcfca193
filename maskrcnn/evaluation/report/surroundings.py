"""Objects by size and place, images without objects, and the limits that a model runs into."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from maskrcnn.evaluation.report.figures import Named
from maskrcnn.evaluation.report.overlaps import Flags, Overlaps
from maskrcnn.evaluation.report.pairing import Pairing
from maskrcnn.evaluation.report.rankings import chosen_at_half

#: Bounds of sizes: the side of a square of the same area, original pixels.
SIDES = (0, 8, 16, 32, 64, 96, 128, 256, 512)
#: An object lies at the border if its box comes so close to it, in pixels.
BORDER = 1.0
#: Objects with a side below this at the network's size are hardly found (a cell of the finest level is 4 px).
TINY = 8
#: Background images that are named.
_NAMED = 50


def object_figures(pairing: Pairing, seen: Flags) -> Named:
    """See ``ReportFigures.objects``.

    Args:
        seen: bool [D], detections at the threshold of their class.
    """
    found, truth = pairing.overlaps, pairing.overlaps.truth
    chosen = chosen_at_half(pairing)[pairing.flags(0, 0)[0] & seen]
    met = np.zeros(len(found.crowd), dtype=np.bool_)
    met[chosen] = True

    def share(which: Flags) -> Named:
        which = which & ~found.crowd
        count = int(which.sum())
        return {"count": count, "found": float(met[which].mean()) if count else None}

    side = np.sqrt(found.object_area)
    bounds = [*SIDES, np.inf]
    sizes = [
        {"low": low, "high": None if high == np.inf else high} | share((side >= low) & (side < high))
        for low, high in pairwise(bounds)
    ]
    box = truth.boxes[found.annotation]
    edge = truth.sizes[truth.images[found.annotation]][:, ::-1]
    near = (box[:, :2] < BORDER) | (box[:, :2] + box[:, 2:] > edge - BORDER)
    border = np.asarray(near.any(axis=1))
    return {"sizes": sizes, "border": share(border), "inside": share(~border)}


def background_figures(found: Overlaps, seen: Flags) -> Named | None:
    """See ``ReportFigures.background``; None where every image has an object."""
    count = len(found.image_ids)
    empty = np.bincount(found.object_image, minlength=count) == 0
    if not empty.any():
        return None
    mine = seen & empty[found.image] & (found.label >= 0)
    each = np.bincount(found.image[mine], minlength=count)
    top = np.zeros(count)
    np.maximum.at(top, found.image[mine], found.score[mine])
    order = np.lexsort((-top, -each))
    worst = [
        {"image_id": int(found.image_ids[i]), "detections": int(each[i]), "score": float(top[i])}
        for i in order[:_NAMED].tolist()
        if each[i]
    ]
    return {
        "images": int(empty.sum()),
        "with_detections": int((each > 0).sum()),
        "detections": int(each.sum()),
        "worst": worst,
    }


def limit_figures(found: Overlaps, cap: int, network_sizes: Mapping[int, tuple[int, int]] | None) -> Named:
    """See ``ReportFigures.limits``.

    Args:
        cap: the model's, detections an image.
        network_sizes: (height, width) of each image, by its id, as the network sees it, before padding.
    """
    count, truth = len(found.image_ids), found.truth
    detections = np.bincount(found.image, minlength=count)
    objects = np.bincount(found.object_image[~found.crowd], minlength=count)
    tiny = None
    if network_sizes is not None:
        sizes = truth.sizes[truth.images[found.annotation]]
        network = np.array([network_sizes[int(i)] for i in found.image_ids], dtype=np.float64)
        scale = network.reshape(-1, 2)[found.object_image] / sizes
        sides = truth.boxes[found.annotation][:, 2:] * scale[:, ::-1]
        tiny = int(((sides.min(axis=1) < TINY) & ~found.crowd).sum())
    return {
        "cap": cap,
        "images_at_cap": int((detections >= cap).sum()),
        "images_over_cap": int((objects > cap).sum()),
        "tiny": tiny,
        "tiny_pixels": TINY,
    }
