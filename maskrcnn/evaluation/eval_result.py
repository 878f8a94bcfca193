"""What an evaluation found: COCO's figures, per class, and the matches behind them.

Legend: T = IoU thresholds (0.50, 0.55 .. 0.95), D = detections, G = ground-truth instances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.config.registry import did_you_mean
from maskrcnn.errors import UserError, plural
from maskrcnn.viz.tables import Table

IntArray = npt.NDArray[np.int64]
#: COCO's twelve figures, in the order in which its evaluator prints them.
TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
#: Those of keypoints.
TEN = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
#: Figures repeated at the model's own cap on detections where that is above 100.
AT_CAP = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
#: COCO's largest number of detections an image; the figures ``@cap`` exist for larger caps.
_COCO_CAP = 100
#: Sizes by the letter at the end of a figure's name: word, and area of the mask or box (COCO's areaRng).
_SIZES = {
    "s": ("small", "under 32 x 32 px"),
    "m": ("medium", "32 x 32 to 96 x 96 px"),
    "l": ("large", "96 x 96 px or more"),
}
#: A cap on recall below this is told.
_LOW = 0.9
#: Recall levels of COCO's precision-recall curve.
RECALLS = np.linspace(0.0, 1.00, 101)


@dataclass(frozen=True)
class ClassFigures:
    """One class: average precisions in [0, 1] (None where the class has no ground truth), and counts."""

    category_id: int
    name: str
    figures: dict[str, float | None]
    ground_truth: int
    detections: int


@dataclass(frozen=True)
class Matches:
    """Which detection met which ground truth: the raw material of error analysis and intervals.

    Detections (at most ``max_detections`` an image and class), by image and class, falling score:
    result_index: int64 [D], place in the list of results that was evaluated.
    image_id, category_id, rank: int64 [D]; rank 0 is the best-scored of its image and class.
    score: float64 [D].
    annotation_id: int64 [T, D], the annotation matched at each IoU threshold, -1 for none.
    matched: bool [T, D], whether there is one.
    ignored: bool [T, D], matched to a crowd, so neither right nor wrong.

    Ground truth: gt_annotation_id, gt_image_id, gt_category_id: int64 [G]; gt_ignored: bool [G] (crowd).
    """

    iou_thresholds: npt.NDArray[np.float64]
    result_index: IntArray
    image_id: IntArray
    category_id: IntArray
    rank: IntArray
    score: npt.NDArray[np.float64]
    annotation_id: IntArray
    matched: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    gt_annotation_id: IntArray
    gt_image_id: IntArray
    gt_category_id: IntArray
    gt_ignored: npt.NDArray[np.bool_]

    def average_precision(
        self, weights: Mapping[int, int] | None = None, max_detections: int = 100
    ) -> float | None:
        """COCO's AP (all sizes), or that of a resampled set of images.

        Args:
            weights: how often each image id counts; an id not named counts 0 times.  None: once each.
                Multinomial weights make a bootstrap sample.
            max_detections: detections counted an image and class.

        Returns:
            the mean over classes and thresholds, or None where no ground truth is left.
        """
        times, gt_times = np.ones(len(self.score), np.int64), np.ones(len(self.gt_image_id), np.int64)
        if weights is not None:
            times = np.array([weights.get(i, 0) for i in self.image_id.tolist()], dtype=np.int64)
            gt_times = np.array([weights.get(i, 0) for i in self.gt_image_id.tolist()], dtype=np.int64)
        precisions = []
        for category in np.unique(self.gt_category_id):
            total = int(gt_times[(self.gt_category_id == category) & ~self.gt_ignored].sum())
            if not total:
                continue
            chosen = np.flatnonzero((self.category_id == category) & (self.rank < max_detections))
            chosen = chosen[np.argsort(-self.score[chosen], kind="mergesort")]
            chosen = np.repeat(chosen, times[chosen])
            precisions.append(_interpolated(self.matched[:, chosen], self.ignored[:, chosen], total))
        return float(np.mean(precisions)) if precisions else None


def _interpolated(
    matched: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_], total: int
) -> npt.NDArray[np.float64]:
    """Precision [T, 101] at COCO's recall levels, from [T, D] flags by falling score."""
    right = np.cumsum(matched & ~ignored, axis=1).astype(np.float64)
    wrong = np.cumsum(~matched & ~ignored, axis=1).astype(np.float64)
    out = np.zeros((len(matched), len(RECALLS)))
    for t in range(len(matched)):
        precision = right[t] / (right[t] + wrong[t] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(right[t] / total, RECALLS, side="left")
        reached = at < len(envelope)
        out[t, reached] = envelope[at[reached]]
    return out


@dataclass(frozen=True)
class EvalResult:
    """COCO's figures for each kind of evaluation.

    figures: "bbox" / "segm" / "keypoints" -> name (see ``TWELVE``, of keypoints ``TEN``; at a cap above 100
        also "AP@cap", "AP50@cap" ...) -> value in [0, 1], or None where it is not defined (no ground truth
        of that kind).
    per_class: the same kinds -> one entry a category, in the order of ids; empty unless asked for.
    max_detections: the model's cap on detections an image.
    backend: what computed them, see ``evaluation.backends``.
    images, ground_truth, detections: counts; ground truth without crowds.
    notes: what was left out, and what is likely wrong where AP is 0; one sentence each.
    matches: the same kinds -> matches, where asked for.
    precision: the same kinds -> float64 [101, K], the precision of each class at IoU 0.50 and each of
        :data:`RECALLS`, NaN for a class without ground truth; where classes are asked for.
    """

    figures: dict[str, dict[str, float | None]]
    per_class: dict[str, list[ClassFigures]]
    max_detections: int
    backend: str
    images: int
    ground_truth: int
    detections: int
    notes: tuple[str, ...] = ()
    matches: dict[str, Matches] = field(default_factory=dict)
    precision: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict, compare=False)

    def get(self, key: str, default: float = 0.0) -> float:
        """One figure by a name like ``segm/AP`` or ``bbox/AP@200``; ``default`` where it is undefined.

        Raises:
            KeyError: there is no such figure; the message lists those there are.
        """
        kind, _, name = key.partition("/")
        if name not in self.figures.get(kind, {}):
            known = ", ".join(f"{k}/{n}" for k, named in self.figures.items() for n in named)
            raise KeyError(f"no figure {key!r}; there are {known}")
        value = self.figures[kind][name]
        return default if value is None else value

    def scalars(self) -> dict[str, float]:
        """All defined figures as ``{"segm/AP": 0.31, ...}``, for logs."""
        return {
            f"{kind}/{name}": value
            for kind, named in self.figures.items()
            for name, value in named.items()
            if value is not None
        }

    def class_scalars(self) -> dict[str, float]:
        """AP by class as ``{"segm/AP/person": 0.31, ...}``, for logs."""
        return {
            f"{kind}/AP/{entry.name}": value
            for kind, entries in self.per_class.items()
            for entry in entries
            if (value := entry.figures["AP"]) is not None
        }

    def as_json(self) -> dict[str, Any]:
        """Everything but matches and precisions as JSON's types; an undefined figure is null."""
        arrays = ("matches", "precision")
        out = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in arrays}
        out["notes"] = list(self.notes)
        out["per_class"] = {k: [asdict(entry) for entry in v] for k, v in self.per_class.items()}
        return out

    def table(self, per_class: bool = True, digits: int = 3) -> str:
        """The figures as text for a terminal."""
        lines: list[str] = []
        for names in (TWELVE, [f"{name}@{self.max_detections}" for name in AT_CAP], TEN):
            rows = self._rows(names, digits)
            if rows:
                lines += [*([""] if lines else []), Table(("", *names), rows).text()]
        entries = next((v for v in self.per_class.values() if v), [])
        if per_class and len(entries) > 1:
            columns = [(kind, name) for kind in self.per_class for name in ("AP", "AP50")]
            head = ["class", "instances", "found", *(f"{kind} {name}" for kind, name in columns)]
            rows = [
                [entry.name, str(entry.ground_truth), str(entry.detections)]
                + [_number(self.per_class[kind][i].figures[name], digits) for kind, name in columns]
                for i, entry in enumerate(entries)
            ]
            lines += ["", Table(head, rows).text()]
        counts = (
            f"{plural(self.images, 'image')}, {plural(self.ground_truth, 'instance')},"
            f" {plural(self.detections, 'detection')} (evaluated by {self.backend})"
        )
        notes = [*self.notes, *legend(self.figures, self.images, [e.ground_truth for e in entries])]
        return "\n".join([*lines, "", counts, *(f"note: {note}" for note in notes)])

    def _rows(self, names: Sequence[str], digits: int) -> list[list[str]]:
        """Of the kinds that have all of these figures."""
        return [
            [kind, *(_number(named[name], digits) for name in names)]
            for kind, named in self.figures.items()
            if all(name in named for name in names)
        ]


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


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


Figures = Mapping[str, Mapping[str, float | None]]


def legend(figures: Figures, images: int, objects: Sequence[int]) -> list[str]:
    """A sentence for each kind of figure that needs one; most results need none.

    Args:
        figures: kind of evaluation -> name -> value, None where it is not defined.
        images: how many were evaluated.
        objects: instances of each class, crowds left out.
    """
    return [*_undefined(figures, sum(objects)), *_capped(figures, images, [n for n in objects if n])]


def _undefined(figures: Figures, objects: int) -> list[str]:
    found = []
    for letter, (word, area) in _SIZES.items():
        names = [
            name
            for name in (f"AP{letter}", f"AR{letter}")
            if any(named.get(name, 0) is None for named in figures.values())
        ]
        if names and objects:
            verb = "are" if len(names) > 1 else "is"
            found.append(
                f"{' and '.join(names)} {verb} n/a: the annotations hold no {word} objects ({area};"
                " crowds do not count)"
            )
    return found


def _capped(figures: Figures, images: int, counts: Sequence[int]) -> list[str]:
    """AR1 and AR10 count so many detections an image and class: crowded images cannot reach 1."""
    if not counts or not any("AR1" in named for named in figures.values()):
        return []
    caps = {n: sum(min(1.0, n * images / c) for c in counts) / len(counts) for n in (1, 10, 100)}
    low = {n: cap for n, cap in caps.items() if cap < _LOW}
    if not low:
        return []
    told = ", ".join(f"AR{n} above {cap:.2f}" for n, cap in low.items())
    sentence = (
        "AR1, AR10 and AR100 allow 1, 10 and 100 detections an image and class; with"
        f" {sum(counts) / images:.3g} objects an image no model can reach {told}"
    )
    return [sentence]
