"""Why AP is 0: the likely reason in one sentence, from the data alone.

AP of 0 beside a falling loss is one of the most repeated questions about detection frameworks; nearly
always ids, units or frames disagree, and the results themselves show which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.coco_input import GroundTruth

Record = Mapping[str, Any]
Boxes = npt.NDArray[np.float64]
#: Ids listed in a message before it says "and n more".
NAMED = 8
#: AP without classes above which places count as found (chance gives a few thousandths).
BLIND = 0.02


def why_zero(
    annotations: Sequence[Record],
    detections: Sequence[Record],
    iou_type: str,
    truth: GroundTruth,
    blind_ap: float,
) -> list[str]:
    """Sentences about an AP of 0 although there are detections.

    Args:
        annotations, detections: those that took part, completed (see ``coco_input``).
        iou_type: "bbox" or "segm".
        truth: the ground truth, for names and image sizes.
        blind_ap: AP in [0, 1] when categories are not compared.
    """
    reason = _reason(annotations, detections, iou_type, truth, blind_ap)
    return [f"{iou_type} AP is 0 although there are {len(detections)} detections: {reason}"]


def _reason(
    annotations: Sequence[Record],
    detections: Sequence[Record],
    iou_type: str,
    truth: GroundTruth,
    blind_ap: float,
) -> str:
    used = {a["category_id"] for a in annotations}
    found = {d["category_id"] for d in detections}
    if not found & set(truth.categories):
        return (
            f"they use category ids {_some(found)}, {truth.source} lists {_some(truth.categories)};"
            " class indices must be mapped back to the file's category ids"
        )
    if blind_ap > BLIND:
        return (
            f"with classes ignored AP is {blind_ap:.3f}, so places are found but classes are not"
            f" (detections use category ids {_some(found)}, the annotations {_some(used)}); check the"
            " mapping of category ids and the order of the classes"
        )
    if not {a["image_id"] for a in annotations} & {d["image_id"] for d in detections}:
        return "none lies on an image with annotations; check the image ids"
    reason = _misplaced(annotations, detections, iou_type, truth)
    if reason is not None:
        return reason
    best = max(d["score"] for d in detections)
    return (
        f"none overlaps an annotation of its image by IoU 0.5 (best score {best:.3f}); the model has"
        " learned nothing yet (is the learning rate warming up, were the weights loaded?) or images and"
        " annotations do not belong together: look at the drawn ground truth"
    )


def _misplaced(
    annotations: Sequence[Record], detections: Sequence[Record], iou_type: str, truth: GroundTruth
) -> str | None:
    """Boxes in the wrong unit, order or frame."""
    key = "segmentation" if iou_type == "segm" else "bbox"
    if iou_type == "segm":
        if not any(d["area"] for d in detections):
            return "all masks are empty; are the probabilities below 0.5 everywhere?"
        boxes = np.asarray(coco_mask.toBbox([d[key] for d in detections]), dtype=np.float64)
    else:
        boxes = np.array([d[key] for d in detections], dtype=np.float64)
    images = [truth.images[d["image_id"]] for d in detections]
    sizes = np.array([[i.get("width") or np.inf, i.get("height") or np.inf] for i in images])
    if float(boxes.max(initial=0)) <= 1.0:
        return "all boxes lie within 1 pixel of the origin; are they normalised to [0, 1]?"
    if bool(np.any((boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0), axis=1).all()):
        return "all boxes lie outside their images; are they in the original frame?"
    guesses: dict[str, Callable[[Boxes], Boxes]] = {
        "are they [x1, y1, x2, y2] where [x, y, width, height] belongs?": lambda b: np.concatenate(
            [b[:, :2], b[:, 2:] - b[:, :2]], axis=1
        ),
        "are x and y exchanged?": lambda b: b[:, [1, 0, 3, 2]],
    }
    for text, mend in guesses.items():
        if _hits(annotations, detections, mend(boxes)) >= 0.2:
            return "the boxes would fit if read differently: " + text
    return None


def _hits(annotations: Sequence[Record], detections: Sequence[Record], boxes: Boxes) -> float:
    """Share of annotations that some box of their image meets with IoU >= 0.5."""
    by_image: dict[int, list[int]] = defaultdict(list)
    for i, detection in enumerate(detections):
        by_image[detection["image_id"]].append(i)
    truth: dict[int, list[Sequence[float]]] = defaultdict(list)
    for annotation in annotations:
        truth[annotation["image_id"]].append(annotation["bbox"])
    met = 0
    for image_id, wanted in truth.items():
        mine = boxes[by_image[image_id]]
        if len(mine):
            iou = np.asarray(coco_mask.iou(mine, np.array(wanted, dtype=np.float64), [0] * len(wanted)))
            met += int((iou >= 0.5).any(axis=0).sum())
    return met / max(len(annotations), 1)


def _some(ids: Any) -> str:
    """The first ids in order, and how many more."""
    listed = sorted(ids)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return "{" + ", ".join(map(str, listed[:NAMED])) + more + "}"
