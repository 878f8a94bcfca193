"""Intervals of COCO's figures over images: how far what resampled sets of images give lies from their mean.

AP of a resampled set is biased: each image that is drawn twice brings a pair of equal scores, and a class
with few objects may lose them.  With few objects a class the bias exceeds the spread, and plain percentiles
do not even hold the figure.  So their distances from the mean of the resamples are laid around the figure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.evaluation.report.averages import Samples, sampled
from maskrcnn.evaluation.report.figures import Named
from maskrcnn.evaluation.report.overlaps import Floats
from maskrcnn.evaluation.report.pairing import Pairing

#: Share of the resamples between low and high.
LEVEL = 0.95
_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


@dataclass(frozen=True, eq=False)
class Intervals:
    """Of one evaluation; B resamples, K classes."""

    samples: Samples

    @classmethod
    def make(
        cls, pairing: Pairing, weights: npt.NDArray[np.int32], progress: Callable[[float], None]
    ) -> Intervals:
        """With each image counted ``weights`` [B, N] times."""
        return cls(sampled(pairing, weights, progress))

    def drawn(self, name: str) -> Floats | None:
        """float64 [B, K], a figure by COCO's name in each resample; None for one of fewer detections."""
        kind, rest = name[:2], name[2:].replace("100", "")
        values = self.samples.precision if kind == "AP" else self.samples.recall
        if rest in _AREAS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of classes without objects
                out: Floats = np.nanmean(values[_AREAS[rest]], axis=1)
            return out
        if kind == "AP" and rest in ("50", "75"):
            return values[0, :, {"50": 0, "75": 5}[rest]]
        return None

    def means(self, name: str) -> Floats | None:
        """float64 [B], the same as a mean over classes."""
        drawn = self.drawn(name)
        if drawn is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.asarray(np.nanmean(drawn, axis=1))

    def of(self, name: str, k: int) -> Floats | None:
        """float64 [B], the same of one class."""
        drawn = self.drawn(name)
        return None if drawn is None else drawn[:, k]


def interval(value: float | None, drawn: Floats | None, least: float = 0.0) -> Named:
    """A figure with low and high from what the resamples [B] gave, None where nothing is defined.

    Args:
        least: the lowest that there is; the highest is 1.
    """
    defined = np.zeros(0) if drawn is None else drawn[~np.isnan(drawn)]
    if value is None or not len(defined):
        return {"value": value, "low": None, "high": None}
    around = value + np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - defined.mean()
    low, high = np.clip(around, least, 1.0).tolist()
    return {"value": value, "low": low, "high": high}
