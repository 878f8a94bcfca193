"""Oracles: what COCO's AP would be if one thing about the detections were perfect.

Each row changes one thing and evaluates again, all sizes, at the model's cap:

- ``boxes``, ``masks``: every detection that overlaps an object of its class by 0.1 or more, crowds left out,
  has exactly the box (of boxes: ``bbox``) or the mask (of masks: ``segm``) of the one it overlaps most.
  Several of one object stay duplicates.
- ``boxes`` of ``segm``: every such detection has the box of that object, and its own mask moved and scaled
  with it (:mod:`maskrcnn.evaluation.report.moved_masks`): what better boxes alone would give.
- ``classes``: every detection that overlaps an object, crowds left out, by 0.5 or more has the class of the
  one it overlaps most.
- ``scores``: in each class those that find an object stand before all that find none.
- ``no_background``, ``no_duplicates``: without the detections that TIDE calls so.
- ``all_found``: without the objects that no detection of their class finds at IoU 0.5.

``now`` is what AP is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskrcnn.evaluation.detections import DetectionColumns
from maskrcnn.evaluation.eval_result import RECALLS
from maskrcnn.evaluation.report.averages import mean, objects, precisions
from maskrcnn.evaluation.report.moved_masks import iou_in_true_boxes
from maskrcnn.evaluation.report.overlaps import Floats, Integers, Overlaps
from maskrcnn.evaluation.report.pairing import AREAS, Pairing, pair
from maskrcnn.evaluation.report.tide import ERRORS, FOUND, Errors

Row = dict[str, float | None]


def oracles(pairing: Pairing, errors: Errors, columns: DetectionColumns) -> dict[str, Row]:
    """AP and AP50 of each row, None where there is no object.

    Args:
        errors: of the same detections, at IoU 0.5.
        columns: those detections as they were read.
    """
    found, cap = pairing.overlaps, pairing.cap
    best = _nearest(found)
    changed = {"boxes" if found.kind == "bbox" else "masks": _alone(found, best, np.ones(len(best)))}
    if found.kind == "segm":
        assert columns.masks is not None
        moved = iou_in_true_boxes(found, columns.masks, columns.boxes, best)
        changed["boxes"] = _alone(found, best, moved)
    changed |= {
        "classes": _named(found),
        "no_background": found.only(errors.kind != ERRORS.index("background")),
        "no_duplicates": found.only(errors.kind != ERRORS.index("duplicate")),
        "all_found": _without_lost(pairing),
    }
    rows = {"now": _row(precisions(pairing)), "scores": _row(_sorted(pairing))}
    return rows | {name: _row(precisions(pair(one, cap, areas=AREAS[:1]))) for name, one in changed.items()}


def _row(precision: Floats) -> Row:
    return {"AP": mean(precision), "AP50": mean(precision[0])}


def _nearest(found: Overlaps) -> Integers:
    """Places of pairs: each detection's with the object of its class, no crowd, that it overlaps most."""
    able = np.flatnonzero(found.same_class & ~found.of_crowd)
    best = found.pairs.select(able).best(len(found.score))
    return np.asarray(able[best[best >= 0]])


def _alone(found: Overlaps, which: Integers, values: Floats) -> Overlaps:
    """Some pairs with another IoU, and those with crowds: their detections overlap no other object."""
    iou = found.pairs.iou.copy()
    iou[which] = values
    kept = found.of_crowd.copy()
    kept[which] = True
    return replace(found, pairs=replace(found.pairs, iou=iou).select(kept))


def _named(found: Overlaps) -> Overlaps:
    """Each detection under the class of the object that it overlaps most."""
    pairs = found.pairs.select(~found.of_crowd & (found.pairs.iou >= FOUND))
    best = pairs.best(len(found.score))
    label = found.label.copy()
    label[best >= 0] = found.object_label[pairs.wanted[best[best >= 0]]]
    return found.with_labels(label)


def _without_lost(pairing: Pairing) -> Overlaps:
    """Objects that no detection finds count as little as crowds, and nothing overlaps them."""
    found, chosen = pairing.overlaps, pairing.chosen[0, 0]
    lost = ~found.crowd
    lost[chosen[chosen >= 0]] = False
    pairs = found.pairs.select(~lost[found.pairs.wanted])
    return replace(found, pairs=pairs, crowd=found.crowd | lost)


def _sorted(pairing: Pairing) -> Floats:
    """Precision [T, R, K] where all that find an object come first: 1 up to the recall that is reached."""
    totals, right = objects(pairing), pairing.right(0)
    out = np.full((len(right), len(RECALLS), len(totals)), np.nan)
    for k, _, places in pairing.by_class():
        if totals[k]:
            reached = right[:, places[places >= 0]].sum(axis=1) / totals[k]
            # Without a right one there is no precision at recall 0 either.
            out[:, :, k] = (reached[:, None] >= RECALLS) & (reached[:, None] > 0)
    return out
