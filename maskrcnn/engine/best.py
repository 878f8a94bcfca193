"""Which evaluation was the best."""

from __future__ import annotations

import math
from collections.abc import Mapping

from maskrcnn.errors import UserError

#: What decides where the recipe does not say.
DEFAULT = ("segm/AP", "keypoints/AP", "bbox/AP")


def improved(
    metrics: Mapping[str, float], wanted: str | None, best: Mapping[str, float], step: int
) -> dict[str, float] | None:
    """The new record, or None where these metrics do not beat it.

    Args:
        metrics: name -> value, of the evaluation at ``step``.
        wanted: the metric whose highest value wins; None: the first there is of :data:`DEFAULT`.
        best: the record so far, ``{metric: value, "step": step}``, or empty.

    Raises:
        UserError: ``wanted`` is not among the metrics.
    """
    name = wanted or next((m for m in DEFAULT if m in metrics), None)
    if name is None:
        return None
    if name not in metrics:
        raise UserError(f"eval.best_metric: no metric is called {name!r}; there are {', '.join(metrics)}")
    value = metrics[name]
    if not math.isfinite(value) or value <= best.get(name, -math.inf):
        return None
    return {name: value, "step": step}
