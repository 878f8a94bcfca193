"""Random cases as the report's functions take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskrcnn.evaluation.backends import Case
from maskrcnn.evaluation.coco import read_truth
from maskrcnn.evaluation.detections import read_detections
from maskrcnn.evaluation.report.overlaps import Overlaps, measure


def case_of(content: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Any) -> Case:
    """All images of a data set, for boxes or masks."""
    truth = read_truth(content, (kind,))
    found = read_detections(results, truth, (kind,), truth.image_ids.tolist())
    return Case(truth, found, kind, np.arange(len(truth.image_ids)))


def overlaps_of(content: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Any) -> Overlaps:
    return measure(case_of(content, results, kind))
