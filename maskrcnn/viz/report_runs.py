"""The parts of a report about trainings: curves over the steps, and runs beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from maskrcnn.errors import plural
from maskrcnn.viz.charts import Chart, Curve, axis_to, line_chart
from maskrcnn.viz.palette import series_colour
from maskrcnn.viz.report_figures import WORDS
from maskrcnn.viz.report_parts import NONE, ReportPart, number, with_interval
from maskrcnn.viz.tables import Table

#: Points of a curve; of more every n-th is drawn.
MOST_POINTS = 400
#: Curves by their names in ``metrics.jsonl``, of the kinds of records: title, and the largest value.
_TRAIN = (
    ("loss", "loss", math.inf),
    ("lr", "learning rate", math.inf),
    ("grad_norm", "norm of the gradient", math.inf),
)
_EVAL = (
    *(
        (f"{kind}/{name}", f"{name} of {word}", 1.0)
        for kind, word in WORDS.items()
        for name in ("AP", "AP50")
    ),
    ("val/loss", "loss on evaluation images", math.inf),
)


def training_part(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> ReportPart | None:
    """Curves of runs by their names, from the records of each ``metrics.jsonl``; None: there are none."""
    charts: list[Chart] = []
    for kind, wanted in (("train", _TRAIN), ("eval", _EVAL)):
        for key, title, most in wanted:
            prefixes = ("", "ema/") if kind == "eval" else ("",)
            for prefix in prefixes:
                series = {name: _curve(records, kind, prefix + key) for name, records in runs.items()}
                if any(len(curve) > 1 for curve in series.values()):
                    charts.append(
                        _chart(title + (" (average of the weights)" if prefix else ""), series, most)
                    )
    if not charts:
        return None
    legend = [(name, series_colour(i)) for i, name in enumerate(runs)]
    return ReportPart("training", "Training", charts=charts, legend=legend)


def _curve(records: Sequence[Mapping[str, Any]], kind: str, key: str) -> list[tuple[float, float]]:
    found = [
        (r["step"], r[key]) for r in records if r.get("kind") == kind and isinstance(r.get(key), float | int)
    ]
    return found[:: max(1, len(found) // MOST_POINTS)]


def _chart(title: str, series: Mapping[str, Curve], most: float) -> Chart:
    """A line a run in the run's own colour, whether the others have the figure or not."""
    known = {name: [curve] for name, curve in series.items() if curve}
    made = line_chart(title, known, most)
    colours = {name: series_colour(i) for i, name in enumerate(series)}
    lines = [replace(line, colour=colours[n], name=n) for line, n in zip(made.lines, known, strict=True)]
    dots = [replace(mark, colour=colours[mark.name]) for mark in made.marks]
    top = max(y for curve in series.values() for _, y in curve)
    height = made.y if most is math.inf else axis_to(top * 1.05, most)
    return Chart(title, made.x, height, lines, dots, below="step")


def differences_part(number_of: int, names: Sequence[str], found: Mapping[str, Any]) -> ReportPart:
    """Two runs, figure by figure and class by class.

    Args:
        number_of: of this part, from 1.  names: of the runs.
        found: the json of :class:`maskrcnn.evaluation.report.comparison.ComparedFigures`.
    """
    head = (*names, "difference", "without 0")
    tables = []
    for kind, figures in found["figures"].items():
        rows = [(name, *_change(change)) for name, change in figures.items()]
        tables.append(Table(("figure", *head), rows, f"{WORDS[kind]}"))
    for kind, classes in found["classes"].items():
        rows = [(entry["name"], *_change(entry["AP"])) for entry in classes]
        if len(rows) > 1:
            tables.append(Table(("class", *head), rows, f"{WORDS[kind]}: AP of each class"))
    level, times = found["intervals"]["level"], found["intervals"]["resamples"]
    images = plural(found["images"], "image", spec=",")
    note = f"{images}; intervals of {level:.0%}, from {times:,} draws of as many images."
    return ReportPart(f"differences-{number_of}", f"{names[1]} against {names[0]}", [note], tables)


def _change(change: Mapping[str, Any]) -> tuple[str, str, str, str]:
    low, high = change["low"], change["high"]
    sure = low is not None and high is not None and (low > 0 or high < 0)
    return number(change["first"]), number(change["second"]), with_interval(change), "yes" if sure else ""


def runs_part(
    figures: Mapping[str, Mapping[str, Any]], keys: Sequence[tuple[str, Sequence[str]]]
) -> ReportPart:
    """Runs beside each other.

    Args:
        figures: name of the run -> what its ``figures.json`` has; empty where there is none.
        keys: what differs between their configs: the key, and each run's value.
    """
    names = list(figures)
    rows: list[list[str]] = [["step", *(str(f.get("step", NONE)) for f in figures.values())]]
    kinds = dict.fromkeys(kind for f in figures.values() for kind in f.get("figures", {}))
    for kind in kinds:
        of_kind = [f.get("figures", {}).get(kind, {}) for f in figures.values()]
        wanted = dict.fromkeys(name for named in of_kind for name in named)
        rows += [
            [f"{WORDS.get(kind, kind)}: {name}", *(number(named.get(name)) for named in of_kind)]
            for name in wanted
        ]
    tables = [Table(("", *names), rows, "Figures of the last evaluation")]
    if keys:
        left = range(len(names) + 1)
        table = [(key, *values) for key, values in keys]
        tables.append(Table(("key", *names), table, "What differs between the configs", left=left))
    return ReportPart("runs", "Runs", () if keys else ["Their configs are the same."], tables)
