"""What finished runs found, row by row: means, spreads, and differences with their intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from maskrcnn.data import Dataset
from maskrcnn.errors import DataError, UserError
from maskrcnn.evaluation import IouType, Result, evaluate_coco, load_results
from maskrcnn.evaluation.eval_result import Matches
from maskrcnn.studies.ablation.bootstrap import Draws, Floats, draw, interval, over_seeds, resampled_precision
from maskrcnn.studies.ablation.plan import Run
from maskrcnn.studies.ablation.progress import RunCost, read_progress
from maskrcnn.studies.ablation.suite import Suite, Variant

#: Figures with an interval, and the IoU thresholds they are the mean of; the others are of one object size.
BOOTSTRAPPED = {"AP": slice(0, 10), "AP50": slice(0, 1), "AP75": slice(5, 6)}
#: Detections that count an image and class where the metric does not say (COCO's evaluators).
_CAPS = {"bbox": 100, "segm": 100, "keypoints": 20}


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    run: Run
    data: Dataset

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """``segm/AP`` ... of the last evaluation; None where there is no ground truth of that kind."""
        found = json.loads(self.run.folder.figures.read_text(encoding="utf-8"))["figures"]
        return {f"{kind}/{name}": value for kind, named in found.items() for name, value in named.items()}

    @cached_property
    def records(self) -> list[Result]:
        """Its detections, COCO records.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return load_results(self.run.folder.results)
        except DataError as error:
            raise UserError(f"{error} Move its run folder away, and the next call trains it again") from None

    @cached_property
    def progress(self) -> RunCost:
        """What its steps cost."""
        return read_progress(self.run)

    def matches(self, kinds: Sequence[IouType]) -> dict[str, Matches]:
        """Which detection met which annotation, by kind."""
        return evaluate_coco(
            self.data.ground_truth(),
            self.records,
            kinds,
            max_detections=self.run.recipe.model.roi.max_detections,
            image_ids=[int(i) for i in self.data.image_ids],
            per_class=False,
            matches=True,
            sigmas=self.run.recipe.eval.sigmas,
        ).matches


@dataclass(frozen=True)
class Difference:
    """A row minus its reference; low and high bound the interval, None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class VariantRow:
    """A variant over its finished seeds.

    values: metric -> one figure a seed; metrics that are not defined are absent.
    differences: metric -> to the reference, over the seeds that both have; empty for a reference.
    published, published_difference: metric -> the source's figure, and its difference.
    """

    variant: Variant
    reference: Variant
    outcomes: tuple[Outcome, ...]
    values: Mapping[str, tuple[float, ...]]
    differences: Mapping[str, Difference]
    published: Mapping[str, float]
    published_difference: Mapping[str, float]

    def mean(self, metric: str) -> float | None:
        """Over the seeds."""
        return statistics.fmean(self.values[metric]) if self.values.get(metric) else None

    def deviation(self, metric: str) -> float | None:
        """The sample standard deviation over the seeds; None for fewer than two."""
        values = self.values.get(metric, ())
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def step_seconds(self) -> float | None:
        """Median time of a step, the mean over the seeds."""
        found = [s for o in self.outcomes if (s := o.progress.step_seconds) is not None]
        return statistics.fmean(found) if found else None

    @property
    def memory(self) -> int | None:
        """Peak memory in bytes, the largest of the seeds."""
        return max((m for o in self.outcomes if (m := o.progress.memory) is not None), default=None)


def collect(suite: Suite, runs: Sequence[Run], data: Dataset) -> list[VariantRow]:
    """A row for each variant with a finished run, in the order of the suite."""
    outcomes = [Outcome(run, data) for run in runs if run.is_finished()]
    by_label: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_label.setdefault(outcome.run.variant.label, []).append(outcome)
    for group in by_label.values():
        group.sort(key=lambda o: o.run.seed)
    resampled = _Resampled(data, [m for m in suite.metrics if _bootstrapped(m)])
    rows = []
    for variant in suite.variants:
        mine = by_label.get(variant.label)
        if not mine:
            continue
        reference = suite.reference_of(variant)
        theirs = by_label.get(reference.label, []) if reference is not variant else []
        differences = _differences(suite.metrics, mine, theirs, resampled) if theirs else {}
        published = {m: v for m in suite.metrics if (v := variant.published.get(plain(m))) is not None}
        minus = {m: v for m in published if (v := reference.published.get(plain(m))) is not None}
        if reference is variant:
            minus = {}
        rows.append(
            VariantRow(
                variant=variant,
                reference=reference,
                outcomes=tuple(mine),
                values={m: _defined(mine, m) for m in suite.metrics if _defined(mine, m)},
                differences=differences,
                published=published,
                published_difference={m: published[m] - minus[m] for m in minus},
            )
        )
    return rows


def plain(metric: str) -> str:
    """A metric without the number of detections, as sources report it: ``segm/AP@200`` -> ``segm/AP``."""
    return metric.partition("@")[0]


def _bootstrapped(metric: str) -> bool:
    kind, _, name = plain(metric).partition("/")
    return kind in _CAPS and name in BOOTSTRAPPED


def _defined(outcomes: Sequence[Outcome], metric: str) -> tuple[float, ...]:
    found = [o.figures.get(metric) for o in outcomes]
    return tuple(v for v in found if v is not None)


class _Resampled:
    """AP of every resample, computed once for each run and kind."""

    def __init__(self, data: Dataset, metrics: Sequence[str]) -> None:
        self._ids = [int(i) for i in data.image_ids]
        self._kinds = tuple(cast(IouType, k) for k in _CAPS if any(m.startswith(k) for m in metrics))
        self._caps = {m: int(m.partition("@")[2] or _CAPS[m.partition("/")[0]]) for m in metrics}
        self._draws: dict[int, Draws] = {}
        self._found: dict[int, dict[tuple[str, int], Floats]] = {}

    def draws(self, seeds: int) -> Draws:
        """The resamples for so many seeds; those of the images are the same for any number."""
        if seeds not in self._draws:
            self._draws[seeds] = draw(self._ids, seeds)
        return self._draws[seeds]

    def __call__(self, outcome: Outcome, metric: str) -> Floats:
        """[B]."""
        if id(outcome) not in self._found:
            draws = self.draws(1)
            matches = outcome.matches(self._kinds)
            wanted = {(m.partition("/")[0], cap) for m, cap in self._caps.items()}
            for name, cap in self._caps.items():
                kind, _, figure = plain(name).partition("/")
                if figure == "AP":
                    _refuse_other_data(outcome, name, matches[kind].average_precision(None, cap))
            self._found[id(outcome)] = {
                (kind, cap): resampled_precision(matches[kind], draws.image_ids, draws.weights, cap)
                for kind, cap in sorted(wanted)
            }
        kind, _, name = plain(metric).partition("/")
        return np.asarray(
            self._found[id(outcome)][kind, self._caps[metric]][:, BOOTSTRAPPED[name]].mean(axis=1)
        )


def _refuse_other_data(outcome: Outcome, metric: str, found: float | None) -> None:
    """
    Raises:
        UserError: a run's detections no longer give its figures.
    """
    told = outcome.figures.get(metric)
    if told is not None and found is not None and abs(told - found) > 1e-6:
        raise UserError(
            f"{outcome.run.folder.figures}: {metric} was {told:.6f} when the run was evaluated, and its"
            f" detections give {found:.6f} on the validation data as they are now; the annotations or the"
            " detections were changed since, so nothing here can be compared"
        )


def _differences(
    metrics: Sequence[str], mine: Sequence[Outcome], theirs: Sequence[Outcome], resampled: _Resampled
) -> dict[str, Difference]:
    """By metric, over the seeds that both have; without interval where it is not bootstrapped."""
    by_seed = {o.run.seed: o for o in theirs}
    pairs = [(o, by_seed[o.run.seed]) for o in mine if o.run.seed in by_seed]
    out: dict[str, Difference] = {}
    for metric in metrics:
        values = [(a, b) for x, y in pairs for a, b in [(x.figures.get(metric), y.figures.get(metric))]]
        defined = [a - b for a, b in values if a is not None and b is not None]
        if not defined or len(defined) < len(values):
            continue
        low = high = None
        if _bootstrapped(metric):
            drawn = np.stack([resampled(x, metric) - resampled(y, metric) for x, y in pairs])
            student = resampled.draws(len(pairs)).student
            low, high = interval(over_seeds(drawn, np.array(defined), student))
        out[metric] = Difference(statistics.fmean(defined), low, high)
    return out
