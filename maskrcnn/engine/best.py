"""Which evaluation was the best."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from maskrcnn.config.registry import did_you_mean
from maskrcnn.errors import UserError
from maskrcnn.evaluation.eval_result import AT_CAP, TEN, TWELVE

logger = logging.getLogger(__name__)

#: What decides where the recipe does not say.
DEFAULT = ("segm/AP", "keypoints/AP", "bbox/AP")
#: COCO's largest number of detections an image; the figures ``@cap`` exist for larger caps.
_COCO_CAP = 100


def check_metric(wanted: str | None, iou_types: Sequence[str], max_detections: int) -> None:
    """The metric that is to mark the best checkpoint is one that the evaluations will give.

    Args:
        iou_types: of "bbox", "segm" and "keypoints", those that are evaluated.
        max_detections: the model's cap on detections an image.

    Raises:
        UserError: it is not.
    """
    names: list[str] = []
    for kind in iou_types:
        names += [f"{kind}/{name}" for name in (TEN if kind == "keypoints" else TWELVE)]
        if kind != "keypoints" and max_detections > _COCO_CAP:
            names += [f"{kind}/{name}@{max_detections}" for name in AT_CAP]
    if wanted is None or wanted in names:
        return
    bare = [name for name in names if name.partition("/")[2] == wanted]
    hint = f" Did you mean {' or '.join(map(repr, bare))}?" if bare else did_you_mean(wanted, names)
    raise UserError(f"eval.best_metric: this run's evaluations give no metric {wanted[:60]!r}.{hint}")


def improved(
    metrics: Mapping[str, float], wanted: str | None, best: Mapping[str, float], step: int
) -> dict[str, float] | None:
    """The new record, or None where these metrics do not beat it.

    Args:
        metrics: name -> value, of the evaluation at ``step``; a figure that is not defined (no ground truth
            of that size) is left out.
        wanted: the metric whose highest value wins; None: the first there is of :data:`DEFAULT`.
        best: the record so far, ``{metric: value, "step": step}``, or empty.
    """
    name = wanted or next((m for m in DEFAULT if m in metrics), None)
    if name is None:
        return None
    if name not in metrics:
        # That the name exists is checked before training (check_metric); what was trained must not be lost.
        logger.warning(
            "eval.best_metric: %s is not defined in this evaluation (no ground truth of that kind), so"
            " best.pt stays as it is; choose another, as %s",
            name,
            next((m for m in DEFAULT if m in metrics), "bbox/AP"),
        )
        return None
    value = metrics[name]
    if not math.isfinite(value) or value <= best.get(name, -math.inf):
        return None
    return {name: value, "step": step}
