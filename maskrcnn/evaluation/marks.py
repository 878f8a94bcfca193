"""Which records of one image are right, and which objects are missed: what a picture marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.inference.records import Result
from maskrcnn.structures.ground_truth import GroundTruth


@dataclass(frozen=True)
class Judged:
    """right: of each record, whether it found an object of its class, or lies in a crowd of it.

    missed: int64 [M], rows of the truth whose objects none found.
    """

    right: list[bool]
    missed: npt.NDArray[np.int64]


def judge(records: Sequence[Result], truth: GroundTruth, image_id: int, least: float = 0.5) -> Judged:
    """By COCO's rule at one threshold: by falling score each record takes the free object of its class with
    the highest IoU, from ``least`` on; by masks, or where not all have one by boxes.

    Args:
        records: of the image, all that are to be judged.
        least: in (0, 1].
    """
    rows = np.flatnonzero(truth.images == truth.image_places[image_id])
    crowds = truth.crowds[rows]
    iou = np.zeros((len(records), len(rows)))
    if iou.size:
        masks = truth.has_masks and all("segmentation" in record for record in records)
        found = [record["segmentation" if masks else "bbox"] for record in records]
        size = truth.sizes[truth.image_places[image_id]].tolist()
        wanted = (
            [{"size": size, "counts": truth.mask(i)} for i in rows.tolist()] if masks else truth.boxes[rows]
        )
        iou = coco_mask.iou(found if masks else np.array(found), wanted, crowds.astype(np.uint8).tolist())
    classes = np.array(truth.category_ids)[truth.labels[rows]]
    free = np.ones(len(rows), dtype=np.bool_)
    right = [False] * len(records)
    for i in sorted(range(len(records)), key=lambda i: -records[i]["score"]):
        own = (classes == records[i]["category_id"]) & (iou[i] >= least) & (free | crowds)
        for able in (own & ~crowds, own & crowds):
            if able.any() and not right[i]:
                right[i] = True
                free[int(np.where(able, iou[i], -1).argmax())] = False
    return Judged(right, rows[free & ~crowds])
