"""What the report's charts show: losses and figures over the steps, and figures by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.studies.ablation.results import VariantRow
from maskrcnn.viz.charts import Chart, Curve, dot_chart, line_chart

#: Points drawn of a curve; more are averaged in groups.
_POINTS = 120


def over_steps(rows: Sequence[VariantRow], metrics: Sequence[str]) -> list[Chart]:
    """A chart for each loss, and for each metric that was evaluated more than once."""
    found: dict[str, dict[str, list[Curve]]] = {}
    for row in rows:
        for outcome in row.outcomes:
            records = read_metrics(outcome.run.folder.path / "metrics.jsonl")
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
