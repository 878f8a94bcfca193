"""The parts of a report that say how good a model is: COCO's figures, classes, curves, borders, objects.

All take the json of :class:`maskrcnn.evaluation.report.figures.ReportFigures`, which has the legend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from maskrcnn.errors import plural
from maskrcnn.viz.charts import Bar, Chart, Line, Mark, Scale, bar_chart
from maskrcnn.viz.palette import BLUE, INK, QUIET, series_colour
from maskrcnn.viz.report_parts import ReportPart, number, percent, points, value_of, whole, with_interval
from maskrcnn.viz.tables import Table

Figures = Mapping[str, Any]
#: What a kind of evaluation is called.
WORDS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
#: Classes that have a curve of their own: those of which there is most truth.
CURVES = 6
_UNIT = Scale(0.0, 1.0, 0.2)


def figure_parts(found: Figures) -> Iterator[ReportPart]:
    """In the order of the page; what was not computed has no part."""
    yield _summary(found)
    yield _classes(found)
    yield _over_iou(found)
    yield _curves(found)
    for make, key in ((_f1, "f1"), (_calibration, "calibration"), (_boundary, "boundary")):
        if found[key] is not None:
            yield make(found)
    if found["objects"] is not None:
        yield _objects(found)


def leads(found: Figures) -> list[tuple[str, str, str]]:
    """(name, figure, what stands below) of the most important."""
    out = []
    for kind, named in found["figures"].items():
        value = named.get("AP", {})
        below = "" if value.get("low") is None else f"{number(value['low'])} to {number(value['high'])}"
        out.append((f"AP of {WORDS.get(kind, kind)}", number(value_of(value)), below))
    if found["f1"] is not None:
        best = found["f1"]["all"]
        out.append(
            ("best F1, all classes", number(best["best_f1"]), f"at a score of {number(best['score'], 2)}")
        )
    objects = sum(entry["ground_truth"] or 0 for entry in found["classes"])
    out.append(("evaluated", plural(found["images"], "image", spec=","), plural(objects, "object", spec=",")))
    return out


def _summary(found: Figures) -> ReportPart:
    kinds = found["figures"]
    names = list(dict.fromkeys(name for named in kinds.values() for name in named))
    rows = [(name, *(with_interval(named.get(name)) for named in kinds.values())) for name in names]
    level, times = found["intervals"].get("level"), found["intervals"].get("resamples")
    told = f"In brackets: where a figure lies in {level or 0:.0%} of {times or 0:,} draws of as many images."
    return ReportPart(
        "figures",
        "COCO's figures",
        [told] if times else (),
        tables=[Table(("figure", *(WORDS.get(kind, kind) for kind in kinds)), rows)],
    )


def _classes(found: Figures) -> ReportPart:
    main = found["kind"]
    kinds = [main, *(kind for kind in found["per_class"] if kind != main)]
    inner = [
        n
        for n in ("AP", "AP50", "AP75", "APs", "APm", "APl")
        if any(n in e for e in found["per_class"][main])
    ]
    head = ["class", "objects", "predictions", *inner, *(f"AP of {WORDS[kind]}" for kind in kinds[1:])]
    f1, calibration = found["f1"], found["calibration"]
    head += ["best F1", "at score", "precision", "recall"] if f1 else []
    head += ["ECE"] if calibration else []
    rows = []
    for k, entry in enumerate(found["classes"]):
        named = found["per_class"][main][k]
        row = [entry["name"], whole(entry["ground_truth"]), whole(entry["detections"])]
        row += [with_interval(named.get(n)) if n == "AP" else number(value_of(named.get(n))) for n in inner]
        row += [number(value_of(found["per_class"][kind][k].get("AP"))) for kind in kinds[1:]]
        if f1:
            row += [number(f1["classes"][k][n]) for n in ("f1", "score", "precision", "recall")]
        if calibration:
            row.append(number(calibration["classes"][k]))
        rows.append(row)
    return ReportPart(
        "classes",
        "Classes and sizes",
        tables=[Table(head, rows)],
    )


def _most(found: Figures) -> list[int]:
    """Places of the classes that have curves, most truth first; none where there is one class."""
    counts = [entry["ground_truth"] or 0 for entry in found["classes"]]
    known = [k for k in range(len(counts)) if counts[k]]
    return sorted(known, key=lambda k: -counts[k])[:CURVES] if len(known) > 1 else []


def _legend(found: Figures) -> list[tuple[str, str]]:
    chosen = _most(found)
    return [("all", INK), *((found["classes"][k]["name"], series_colour(i)) for i, k in enumerate(chosen))]


def _lines(
    found: Figures,
    xs: Sequence[float],
    every: Sequence[float | None],
    curves: Sequence[Sequence[float | None]],
) -> list[Line]:
    """Thin ones of the classes that have curves, and a thick one of all."""
    names = [entry["name"] for entry in found["classes"]]
    chosen = enumerate(_most(found))
    thin = [Line(points(xs, curves[k]), series_colour(i), 1.3, name=names[k]) for i, k in chosen]
    return [*(line for line in thin if line.points), Line(points(xs, every), INK, 2.4, name="all")]


def _over_iou(found: Figures) -> ReportPart:
    charts = []
    for kind, curves in found["over_iou"].items():
        lines = _lines(found, curves["iou"], curves["all"], curves["classes"])
        title = f"{WORDS[kind]}: AP over IoU"
        charts.append(Chart(title, Scale(0.5, 0.95, 0.05), _UNIT, lines, below="IoU at which one is right"))
    return ReportPart(
        "iou",
        "AP over IoU",
        charts=charts,
        legend=_legend(found),
    )


def _curves(found: Figures) -> ReportPart:
    charts = []
    for kind, c in found["precision_recall"].items():
        lines = _lines(found, c["recall"], c["iou50"], c["classes"])
        lines.append(Line(points(c["recall"], c["iou75"]), INK, 1.6, dashes="5 3", name="all, IoU 0.75"))
        title = f"{WORDS[kind]}: precision over recall"
        charts.append(Chart(title, _UNIT, _UNIT, lines, below="recall", beside="IoU 0.50; dashed 0.75"))
    return ReportPart(
        "curves",
        "Precision and recall",
        charts=charts,
        legend=_legend(found),
    )


def _f1(found: Figures) -> ReportPart:
    f1 = found["f1"]
    both = f1["all"]
    lines = _lines(found, f1["scores"], both["f1"], [entry["curve"] for entry in f1["classes"]])
    marks = []
    if both["score"] is not None:
        told = f"best F1 {number(both['best_f1'])} at {number(both['score'], 2)}"
        marks.append(Mark(both["score"], both["best_f1"], INK, name=told))
    parted = [
        Line(points(f1["scores"], both["precision"]), BLUE, 1.8, name="precision"),
        Line(points(f1["scores"], both["recall"]), QUIET, 1.8, dashes="5 3", name="recall"),
    ]
    return ReportPart(
        "f1",
        "F1 over score",
        charts=[
            Chart("F1", _UNIT, _UNIT, lines, marks, below="score"),
            Chart("all: precision, and recall (dashed)", _UNIT, _UNIT, parted, below="score"),
        ],
        legend=_legend(found),
    )


def _calibration(found: Figures) -> ReportPart:
    c = found["calibration"]
    bars = [
        Bar(b["low"], b["high"], b["precision"], BLUE, f"{b['precision']:.1%} of {b['count']:,} are right")
        for b in c["bins"]
        if b["precision"] is not None
    ]
    exact = Line([(0.0, 0.0), (1.0, 1.0)], INK, 1.2, dashes="5 3", name="scores that say what they mean")
    rows = [
        (
            f"{b['low']:.1f} to {b['high']:.1f}",
            whole(b["count"]),
            number(b["confidence"]),
            number(b["precision"]),
        )
        for b in c["bins"]
    ]
    return ReportPart(
        "calibration",
        "Calibration",
        [f"ECE {number(c['ece'])}, largest distance {number(c['mce'])}."],
        [Table(("score", "predictions", "mean score", "right"), rows)],
        [Chart("share that is right over score", _UNIT, _UNIT, [exact], bars=bars, below="score")],
    )


def _boundary(found: Figures) -> ReportPart:
    figures, main = found["boundary"]["figures"], found["figures"].get("segm", {})
    rows = [(name, number(value), number(value_of(main.get(name)))) for name, value in figures.items()]
    classes = [
        (entry["name"], number(mine["AP"]), number(mine["AP50"]))
        for entry, mine in zip(found["classes"], found["boundary"]["classes"], strict=True)
    ]
    tables = [Table(("", "borders", "masks"), rows)]
    return ReportPart(
        "borders",
        "Borders",
        tables=[*tables, Table(("class", "AP of borders", "AP50"), classes)] if len(classes) > 1 else tables,
    )


def _objects(found: Figures) -> ReportPart:
    o = found["objects"]
    sizes = [(f"{_px(s['low'])} to {_px(s['high'])}", s["count"], s["found"]) for s in o["sizes"]]
    sizes = [(name.replace(" to inf", " and more"), count, share) for name, count, share in sizes]
    rows = [(name, whole(count), percent(share)) for name, count, share in sizes]
    for word, key in (("cut by the image's border", "border"), ("inside", "inside")):
        rows.append((word, whole(o[key]["count"]), percent(o[key]["found"])))
    ticks = {name.partition(" ")[0]: share or 0.0 for name, _, share in sizes}
    chart = bar_chart("share found, by size (px, from)", ticks)
    return ReportPart(
        "objects",
        "Objects by size and place",
        tables=[Table(("side, px", "objects", "found"), rows)],
        charts=[replace(chart, y=_UNIT)],
    )


def _px(value: float | None) -> str:
    return "inf" if value is None or value > 1e6 else f"{value:g}"
