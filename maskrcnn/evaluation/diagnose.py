"""Why AP is 0: the likely reason in one sentence, from the data alone.

AP of 0 beside a falling loss is one of the most repeated questions about detection frameworks; nearly
always ids, units or frames disagree, and the results themselves show which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.errors import few, plural
from maskrcnn.evaluation.backends import Case
from maskrcnn.structures import rle

Boxes = npt.NDArray[np.float64]
#: Ids listed in a message before it says "and n more".
NAMED = 8
#: AP without classes above which places count as found (chance gives a few thousandths).
BLIND = 0.02


def why_zero(case: Case, blind_ap: float) -> list[str]:
    """Sentences about an AP of 0 although there are detections.

    Args:
        case: the evaluation, of boxes or masks.
        blind_ap: AP in [0, 1] when categories are not compared.
    """
    reason = _reason(case, blind_ap)
    return [f"{case.iou_type} AP is 0 although there are {plural(len(case.found), 'detection')}: {reason}"]


def _reason(case: Case, blind_ap: float) -> str:
    truth, rows = case.truth, case.annotations
    used = {truth.category_ids[k] for k in np.unique(truth.labels[rows]).tolist()}
    found = set(np.unique(case.found.categories).tolist())
    if not found & set(truth.category_ids):
        return (
            f"they use category ids {_some(found)}, {truth.source} lists {_some(truth.category_ids)};"
            " class indices must be mapped back to the file's category ids"
        )
    if blind_ap > BLIND:
        return (
            f"with classes ignored AP is {blind_ap:.3f}, so places are found but classes are not"
            f" (detections use category ids {_some(found)}, the annotations {_some(used)}); check the"
            " mapping of category ids and the order of the classes"
        )
    if not np.isin(case.found.images, truth.images[rows]).any():
        return "none lies on an image with annotations; check the image ids"
    reason = _misplaced(case)
    if reason is not None:
        return reason
    best = float(case.found.scores.max())
    return (
        f"none overlaps an annotation of its image by IoU 0.5 (best score {best:.3f}); the model has"
        " learned nothing yet (is the learning rate warming up, were the weights loaded?) or images and"
        " annotations do not belong together: look at the drawn ground truth"
    )


def _misplaced(case: Case) -> str | None:
    """Boxes in the wrong unit, order or frame."""
    sizes = case.truth.sizes[case.found.images]
    if case.iou_type == "segm":
        if not case.areas.any():
            return "all masks are empty; are the probabilities below 0.5 everywhere?"
        assert case.found.masks is not None
        boxes = rle.boxes(case.found.masks)
    else:
        boxes = case.boxes
    if float(boxes.max(initial=0)) <= 1.0:
        return "all boxes lie within 1 pixel of the origin; are they normalised to [0, 1]?"
    if bool(np.any((boxes[:, :2] >= sizes[:, ::-1]) | (boxes[:, :2] + boxes[:, 2:] <= 0), axis=1).all()):
        return "all boxes lie outside their images; are they in the original frame?"
    guesses: dict[str, Callable[[Boxes], Boxes]] = {
        "are they [x1, y1, x2, y2] where [x, y, width, height] belongs?": lambda b: np.concatenate(
            [b[:, :2], b[:, 2:] - b[:, :2]], axis=1
        ),
        "are x and y exchanged?": lambda b: b[:, [1, 0, 3, 2]],
    }
    for text, mend in guesses.items():
        if _hits(case, mend(boxes)) >= 0.2:
            return "the boxes would fit if read differently: " + text
    return None


def _hits(case: Case, boxes: Boxes) -> float:
    """Share of annotations that some box of their image meets with IoU >= 0.5."""
    truth, rows = case.truth, case.annotations
    rows = rows[np.argsort(truth.images[rows], kind="stable")]
    order = np.argsort(case.found.images, kind="stable")
    images, starts = np.unique(truth.images[rows], return_index=True)
    first = np.searchsorted(case.found.images[order], images, side="left").tolist()
    last = np.searchsorted(case.found.images[order], images, side="right").tolist()
    met = 0
    for wanted, a, b in zip(np.split(truth.boxes[rows], starts[1:]), first, last, strict=True):
        if b > a:
            iou = np.asarray(coco_mask.iou(boxes[order[a:b]], wanted, [0] * len(wanted)))
            met += int((iou >= 0.5).any(axis=0).sum())
    return met / max(len(rows), 1)


def _some(ids: Iterable[Any]) -> str:
    """The first ids in order, and how many more."""
    return "{" + few(sorted(ids), NAMED) + "}"
