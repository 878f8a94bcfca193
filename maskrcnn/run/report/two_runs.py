"""Two runs on the same images: which differ most, and what each model found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from maskrcnn.evaluation.report.figures import ReportFigures
from maskrcnn.run.report.choice_of_images import JudgedRun, gallery, ordered
from maskrcnn.run.report.evaluated import Evaluated, figures_of
from maskrcnn.viz.gallery import Layer, Overlay
from maskrcnn.viz.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from maskrcnn.viz.report_page import Gallery, Kind


@dataclass(frozen=True)
class Both:
    """What became of the truth and of the predictions of two models; of ``first`` and ``second``."""

    first: JudgedRun
    second: JudgedRun

    def outlines(self, image_id: int) -> list[Overlay]:
        """The truth by who found it, and both models' predictions, right or wrong."""
        sides: tuple[tuple[JudgedRun, Layer], ...] = ((self.first, "found"), (self.second, "other"))
        drawn = [
            (order, replace(one, kind=one.kind if one.kind == "right" else "wrong"))
            for judged, layer in sides
            for order, one in judged.found(image_id, layer)
        ]
        for (order, one), (_, other) in zip(
            self.first.true(image_id), self.second.true(image_id), strict=True
        ):
            kinds = (one.kind, other.kind)
            kind = {("met", "missed"): "lost", ("missed", "met"): "gained"}.get(kinds, one.kind)
            drawn.append((order, replace(one, kind=kind, text=f"{one.text}; second run: {other.kind}")))
        return ordered(drawn)


def kinds_of_two(first: str, second: str) -> list[Kind]:
    """What the outlines are, with the names of the runs."""
    return [
        Kind("truth", "met", "labelled, found by both", SKY, filled=False),
        Kind("truth", "lost", f"labelled, found by {first} alone", ORANGE),
        Kind("truth", "gained", f"labelled, found by {second} alone", GREEN),
        Kind("truth", "missed", "labelled, found by neither", PURPLE),
        Kind("truth", "crowd", "labelled as a crowd", PURPLE, filled=False),
        Kind("found", "right", f"{first}: right", VERMILLION, filled=False),
        Kind("found", "wrong", f"{first}: wrong", VERMILLION),
        Kind("other", "right", f"{second}: right", BLUE, filled=False),
        Kind("other", "wrong", f"{second}: wrong", BLUE),
    ]


def gallery_of_two(names: tuple[str, str], seen: tuple[Evaluated, Evaluated]) -> Gallery | None:
    """The images on which two runs differ most; None of keypoints."""
    figures = [figures_of(one, lambda what, share: None, resamples=0) for one in seen]
    if any(of.outcomes is None for of in figures):
        return None
    truth = seen[0].dataset.ground_truth()
    judged = [
        JudgedRun(one.dataset, truth, one.records, of.outcomes, of.thresholds)
        for one, of in zip(seen, figures, strict=True)
        if of.outcomes is not None
    ]
    both = Both(*judged)
    before, after = (_f1(of) for of in figures)
    gain = {i: after.get(i, 0.0) - before.get(i, 0.0) for i in before.keys() | after.keys()}
    groups = {
        f"better by {names[1]}": _best_first(gain, 1),
        f"better by {names[0]}": _best_first(gain, -1),
    }
    told = {i: f"F1 {before.get(i, 0.0):.2f} and {after.get(i, 0.0):.2f}" for i in gain}
    known = {name: ids for name, ids in groups.items() if ids}
    shots, sentence, _ = gallery(judged[0], known, told, outlines=both.outlines)
    layers = (("truth", "truth"), ("found", names[0]), ("other", names[1]))
    return Gallery(shots, sentence, list(known), truth.category_names, kinds_of_two(*names), layers)


def _f1(figures: ReportFigures) -> dict[int, float]:
    return {entry["image_id"]: entry["f1"] or 0.0 for entry in figures.images_ranked}


def _best_first(gain: Mapping[int, float], sign: int) -> Sequence[int]:
    return sorted((i for i in gain if sign * gain[i] > 0), key=lambda i: (-sign * gain[i], i))
