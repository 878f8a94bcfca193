"""Which images and instances to look at: worst, best, confident errors, and what may be labelled wrongly.

Legend: D = detections, G = objects.
"""

from __future__ import annotations

import numpy as np

from maskrcnn.evaluation.report.figures import OUTCOMES, Named, Outcomes
from maskrcnn.evaluation.report.overlaps import Flags, Floats, Integers, Overlaps
from maskrcnn.evaluation.report.pairing import Pairing
from maskrcnn.evaluation.report.tide import ERRORS, Errors

#: At most so many entries of a list.
MOST_ERRORS, MOST_LABELS = 500, 200


def chosen_at_half(pairing: Pairing) -> Integers:
    """int64 [D], the object that each detection finds at IoU 0.5, a crowd too; -1: none."""
    out = np.full(len(pairing.overlaps.score), -1, dtype=np.int64)
    out[pairing.rows] = pairing.chosen[0, 0]
    return out


def used_objects(pairing: Pairing) -> Flags:
    """bool [G], objects that count and that a detection finds at IoU 0.5."""
    found = pairing.overlaps
    chosen = chosen_at_half(pairing)
    out = np.zeros(len(found.crowd), dtype=np.bool_)
    out[chosen[chosen >= 0]] = True
    return out & ~found.crowd


def outcomes(pairing: Pairing, errors: Errors) -> Outcomes:
    """What became of all detections within the cap, and of all objects.

    Args:
        errors: of the same detections.
    """
    found = pairing.overlaps
    right, wrong = pairing.flags(0, 0)
    chosen = chosen_at_half(pairing)
    outcome = np.full(len(right), OUTCOMES.index("ignored"))
    outcome[right] = OUTCOMES.index("right")
    strange = wrong | (found.label < 0)
    outcome[strange] = np.array([OUTCOMES.index(name) for name in ERRORS[:-1]])[errors.kind[strange]]
    truth = np.where(chosen >= 0, chosen, errors.cause)
    best = np.full(len(right), 0.0)
    mine = truth[found.pairs.found] == found.pairs.wanted
    best[found.pairs.found[mine]] = found.pairs.iou[mine]
    kept = np.flatnonzero(found.rank < pairing.cap)
    place = np.full(len(right), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    finder = np.full(len(found.crowd), -1, dtype=np.int64)
    finder[chosen[right]] = place[right]
    nearest = np.zeros(len(found.crowd))
    np.maximum.at(nearest, found.pairs.wanted, found.pairs.iou)
    return Outcomes(
        result=found.result[kept],
        image=found.image_ids[found.image[kept]],
        label=found.label[kept],
        score=found.score[kept],
        outcome=outcome[kept],
        truth=truth[kept],
        iou=best[kept],
        annotation=found.truth.annotation_ids[found.annotation],
        object_image=found.image_ids[found.object_image],
        object_label=found.object_label,
        crowd=found.crowd,
        found=finder,
        best=nearest,
    )


def confident_errors(outcome: Outcomes) -> list[Named]:
    """See ``ReportFigures.confident_errors``."""
    wrong = np.flatnonzero(
        (outcome.outcome != OUTCOMES.index("right")) & (outcome.outcome != OUTCOMES.index("ignored"))
    )
    rows = wrong[np.argsort(-outcome.score[wrong], kind="stable")][:MOST_ERRORS]
    return [
        {
            "result": int(outcome.result[i]),
            "image_id": int(outcome.image[i]),
            "label": _label(outcome.label[i]),
            "score": float(outcome.score[i]),
            "outcome": OUTCOMES[outcome.outcome[i]],
            "annotation_id": _annotation(outcome, i),
            "iou": float(outcome.iou[i]),
        }
        for i in rows.tolist()
    ]


def _label(value: int) -> int | None:
    return None if value < 0 else int(value)


def _annotation(outcome: Outcomes, detection: int) -> int | None:
    place = outcome.truth[detection]
    return None if place < 0 else int(outcome.annotation[place])


def image_counts(found: Overlaps, right: Flags, wrong: Flags, seen: Flags) -> dict[str, Integers]:
    """int64 [N] each: right and wrong detections among those ``seen`` [D], objects, and missed ones."""
    count = len(found.image_ids)
    out = {
        "right": np.bincount(found.image[right & seen], minlength=count),
        "wrong": np.bincount(found.image[wrong & seen], minlength=count),
        "objects": np.bincount(found.object_image[~found.crowd], minlength=count),
    }
    return out | {"missed": out["objects"] - out["right"]}


def image_f1(counts: dict[str, Integers]) -> Floats:
    """float64 [N]; NaN for an image without objects and detections."""
    with np.errstate(invalid="ignore"):
        f1 = 2 * counts["right"] / (2 * counts["right"] + counts["wrong"] + counts["missed"])
    return np.asarray(f1, dtype=np.float64)


def ranked_images(pairing: Pairing, seen: Flags) -> list[Named]:
    """See ``ReportFigures.images_ranked``; of one F1 the image with more errors stands first."""
    found = pairing.overlaps
    counts = image_counts(found, *pairing.flags(0, 0), seen)
    f1 = image_f1(counts)
    order = np.lexsort((-(counts["wrong"] + counts["missed"]), f1))
    return [
        {"image_id": int(found.image_ids[i]), "f1": float(f1[i])} | {k: int(v[i]) for k, v in counts.items()}
        for i in order.tolist()
        if not np.isnan(f1[i])
    ]


def label_errors(outcome: Outcomes, seen: Flags, recalls: Floats) -> list[Named]:
    """See ``ReportFigures.label_errors``.

    A detection with nothing near it, or right on an object of another class, is as suspicious as its score;
    an object that nothing comes near as the recall of its class, less what overlaps it.

    Args:
        seen: bool [D], detections of ``outcome`` at the threshold of their class.
        recalls: float64 [K], the share of each class's objects that is found.
    """
    listed: list[tuple[float, Named]] = []
    blank: Named = {"annotation_id": None, "result": None, "label": None, "predicted": None, "score": None}
    for kind, name in (("background", "unlabelled"), ("class", "class")):
        mine = np.flatnonzero(seen & (outcome.outcome == OUTCOMES.index(kind)))
        mine = mine[np.argsort(-outcome.score[mine], kind="stable")][:MOST_LABELS]
        for i in mine.tolist():
            place = int(outcome.truth[i])
            entry = blank | {
                "type": name,
                "image_id": int(outcome.image[i]),
                "annotation_id": _annotation(outcome, i),
                "result": int(outcome.result[i]),
                "label": None if place < 0 else int(outcome.object_label[place]),
                "predicted": _label(outcome.label[i]),
                "score": float(outcome.score[i]),
                "iou": float(outcome.iou[i]),
            }
            listed.append((float(outcome.score[i]), entry))
    doubt = np.nan_to_num(recalls)[outcome.object_label] - outcome.best
    lost = np.flatnonzero(~outcome.crowd & (outcome.found < 0) & (doubt > 0))
    for i in lost[np.argsort(-doubt[lost], kind="stable")][:MOST_LABELS].tolist():
        entry = blank | {
            "type": "unfound",
            "image_id": int(outcome.object_image[i]),
            "annotation_id": int(outcome.annotation[i]),
            "label": int(outcome.object_label[i]),
            "iou": float(outcome.best[i]),
        }
        listed.append((float(doubt[i]), entry))
    listed.sort(key=lambda item: -item[0])
    return [entry for _, entry in listed[:MOST_LABELS]]
