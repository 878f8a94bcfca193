"""The rows as tables (figures, differences, costs, and all numbers in one) and as charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.studies.ablation.bootstrap import COVERAGE
from maskrcnn.studies.ablation.results import Difference, VariantRow
from maskrcnn.viz.charts import Chart, Curve, dot_chart, line_chart
from maskrcnn.viz.tables import Table

_TITLES = {"bbox": "Boxes", "segm": "Masks", "keypoints": "Keypoints"}
_NONE = "-"
#: Points drawn of a curve; more are averaged in groups.
_POINTS = 120


def tables(rows: Sequence[VariantRow], metrics: Sequence[str]) -> list[Table]:
    """Figures and differences of each kind, then the costs."""
    out = []
    for kind in dict.fromkeys(m.partition("/")[0] for m in metrics):
        mine = [m for m in metrics if m.startswith(kind + "/")]
        title = _TITLES.get(kind, kind)
        out.append(_figures(title, rows, mine))
        if any(row.differences for row in rows):
            out.append(_differences(title, rows, mine))
    return [*out, _costs(rows)]


def _figures(title: str, rows: Sequence[VariantRow], metrics: Sequence[str]) -> Table:
    published = [m for m in metrics if any(m in row.published for row in rows)]
    head = ("variant", "seeds", *map(_name, metrics), *(f"source {_name(m)}" for m in published))
    cells = [
        (
            row.variant.label,
            str(len(row.outcomes)),
            *(_spread(row.mean(m), row.deviation(m)) for m in metrics),
            *(_number(row.published.get(m)) for m in published),
        )
        for row in rows
    ]
    return Table(head, cells, f"{title}: mean and standard deviation over the seeds")


def _differences(title: str, rows: Sequence[VariantRow], metrics: Sequence[str]) -> Table:
    shown = [m for m in metrics if any(row.differences.get(m) for row in rows)]
    shown = [m for m in shown if any(r.differences[m].low is not None for r in rows if m in r.differences)]
    published = [m for m in shown if any(m in row.published_difference for row in rows)]
    head = ("variant", "minus", *map(_name, shown), *(f"source {_name(m)}" for m in published))
    cells = [
        (
            row.variant.label,
            row.reference.label,
            *(_with_interval(row.differences.get(m)) for m in shown),
            *(_signed(row.published_difference.get(m)) for m in published),
        )
        for row in rows
        if row.differences
    ]
    return Table(
        head, cells, f"{title}: difference with {COVERAGE:.0f} % interval (* where it leaves out zero)"
    )


def _costs(rows: Sequence[VariantRow]) -> Table:
    cells = []
    for row in rows:
        memory = None if row.memory is None else row.memory / 2**30
        cells.append((row.variant.label, _number(row.step_seconds, 2), _number(memory, 2)))
    return Table(("variant", "s a step", "peak GiB"), cells, "Cost")


def _name(metric: str) -> str:
    return metric.partition("/")[2]


def _number(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    # No minus before a zero.
    return _NONE if value is None else f"{value:+.3f}".replace("-0.000", "+0.000")


def _spread(mean: float | None, deviation: float | None) -> str:
    return _number(mean) if deviation is None else f"{_number(mean)} ±{deviation:.3f}"


def _with_interval(difference: Difference | None) -> str:
    if difference is None:
        return _NONE
    text = _signed(difference.value)
    if difference.low is not None:
        text += f" [{_signed(difference.low)}, {_signed(difference.high)}]"
    return text + ("*" if difference.separated else "")


def numbers(rows: Sequence[VariantRow], metrics: Sequence[str]) -> Table:
    """One row a variant and metric, with every number at full precision; costs in rows of their own."""
    head = (
        *("variant", "reference", "metric", "seeds", "values", "mean", "deviation"),
        *("difference", "low", "high", "published", "published_difference"),
    )
    cells = []
    for row in rows:
        label, reference = row.variant.label, row.reference.label
        seeds = " ".join(str(o.run.seed) for o in row.outcomes)
        for m in metrics:
            d = row.differences.get(m)
            values = " ".join(repr(v) for v in row.values.get(m, ()))
            found = (row.mean(m), row.deviation(m), d and d.value, d and d.low, d and d.high)
            source = (row.published.get(m), row.published_difference.get(m))
            shown = ["" if v is None else repr(v) for v in (*found, *source)]
            cells.append((label, reference, m, seeds, values, *shown))
        for name, cost in (("step_seconds", row.step_seconds), ("memory_bytes", row.memory)):
            cells.append((label, reference, name, seeds, "", "" if cost is None else repr(cost), *[""] * 6))
    return Table(head, cells)


def over_steps(rows: Sequence[VariantRow], metrics: Sequence[str]) -> list[Chart]:
    """A chart for each loss, and for each metric that was evaluated more than once."""
    found: dict[str, dict[str, list[Curve]]] = {}
    for row in rows:
        for outcome in row.outcomes:
            records = read_metrics(outcome.run.folder.metrics)
            for name, curve in _of_run(records, metrics).items():
                by_label = found.setdefault(name, {r.variant.label: [] for r in rows})
                by_label[row.variant.label].append(curve)
    return [
        line_chart(name, by_label, 1.0 if name in metrics else math.inf)
        for name, by_label in found.items()
        if any(len(curve) > 1 for curves in by_label.values() for curve in curves)
    ]


def by_seed(rows: Sequence[VariantRow], metric: str) -> Chart:
    """One figure, a dot a seed, and where the source reports it."""
    published = any(metric in row.published for row in rows)
    series = {r.variant.label: (r.values.get(metric, ()), r.published.get(metric)) for r in rows}
    return dot_chart(f"{metric} (× source)" if published else metric, series, 1.0)


def _of_run(records: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> dict[str, Curve]:
    names = {k: None for r in records for k in r if k.startswith("loss") or k in metrics}
    out: dict[str, Curve] = {}
    for name in names:
        points = [(float(r["step"]), float(r[name])) for r in records if r.get(name) is not None]
        size = math.ceil(len(points) / _POINTS)
        groups = [points[i : i + size] for i in range(0, len(points), size)]
        out[name] = [(g[-1][0], sum(v for _, v in g) / len(g)) for g in groups]
    return out
