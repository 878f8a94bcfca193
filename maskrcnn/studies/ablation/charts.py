"""Charts as SVG text: lines over the steps, and one dot a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.studies.ablation.results import VariantRow
from maskrcnn.viz.figure import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, VERMILLION

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, INK, QUIET)
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 260, 46, 30, 26
#: Points drawn of a curve; more are averaged in groups.
_POINTS = 120

#: (step, value) pairs.
Curve = Sequence[tuple[float, float]]


def curves(rows: Sequence[VariantRow], metrics: Sequence[str]) -> list[str]:
    """A chart for each loss, and for each metric that was evaluated more than once."""
    found: dict[str, dict[str, list[Curve]]] = {}
    for row in rows:
        for outcome in row.outcomes:
            records = read_metrics(outcome.run.folder.path / "metrics.jsonl")
            for name, curve in _of_run(records, metrics).items():
                found.setdefault(name, {}).setdefault(row.variant.label, []).append(curve)
    colours = {row.variant.label: COLOURS[i % len(COLOURS)] for i, row in enumerate(rows)}
    return [
        line_chart(name, {label: (curves, colours[label]) for label, curves in by.items()})
        for name, by in found.items()
        if any(len(curve) > 1 for curves in by.values() for curve in curves)
    ]


def _of_run(records: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> dict[str, Curve]:
    names = {k: None for r in records for k in r if k.startswith("loss") or k in metrics}
    out: dict[str, Curve] = {}
    for name in names:
        points = [(float(r["step"]), float(r[name])) for r in records if r.get(name) is not None]
        size = math.ceil(len(points) / _POINTS)
        groups = [points[i : i + size] for i in range(0, len(points), size)]
        out[name] = [(g[-1][0], sum(v for _, v in g) / len(g)) for g in groups]
    return out


def line_chart(title: str, series: Mapping[str, tuple[Sequence[Curve], str]]) -> str:
    """Lines over steps: a thin line a seed and a thick one for their mean, by label with a colour.

    The value axis begins at 0 and ends where the upper 2 % of the points are cut off.
    """
    values = sorted(v for curves, _ in series.values() for curve in curves for _, v in curve)
    top = nice(values[min(len(values) - 1, int(0.98 * len(values)))] * 1.05)
    last = max(x for curves, _ in series.values() for curve in curves for x, _ in curve)

    def at(x: float, y: float) -> str:
        return f"{_x(x / last):.1f},{_y(min(y / top, 1.0)):.1f}"

    marks = [*_frame(title, top), *_step_axis(last)]
    for curves, colour in series.values():
        thin = 'stroke-width="0.8" opacity="0.45"'
        marks += [_polyline([at(*p) for p in curve], colour, thin) for curve in curves if len(curves) > 1]
    for curves, colour in series.values():
        mean = [
            (points[0][0], sum(v for _, v in points) / len(points)) for points in zip(*curves, strict=False)
        ]
        marks.append(_polyline([at(*p) for p in mean], colour, 'stroke-width="2"'))
    return _svg(marks, _HEIGHT + 4)


def dot_chart(title: str, rows: Sequence[VariantRow], metric: str) -> str:
    """One figure: a dot a seed, a bar at their mean, and a cross where the source reports it."""
    values = [v for row in rows for v in row.values.get(metric, ())]
    top = nice(max([*values, *(row.published.get(metric, 0.0) for row in rows), 1e-3]) * 1.05)
    marks = _frame(title, top)
    for i, row in enumerate(rows):
        x, colour = _x((i + 0.5) / len(rows)), COLOURS[i % len(COLOURS)]
        found, source = row.values.get(metric, ()), row.published.get(metric)
        if found:
            y = _y(sum(found) / len(found) / top)
            marks.append(_line(x - 11, y, x + 11, y, colour, 2))
        for k, v in enumerate(found):
            dx = 5 * (k - (len(found) - 1) / 2)
            marks.append(f'<circle cx="{x + dx:.1f}" cy="{_y(v / top):.1f}" r="3" fill="{colour}"/>')
        if source is not None:
            y = _y(source / top)
            marks += [_line(x - 4, y + s, x + 4, y - s, QUIET, 1.4) for s in (4, -4)]
    return _svg(marks, _HEIGHT + 4)


def legend(rows: Sequence[VariantRow]) -> str:
    """HTML: a coloured square a variant."""
    items = (
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(row.variant.label)}</span>'
        for i, row in enumerate(rows)
    )
    return '<p class="legend">' + " ".join(items) + "</p>"


def nice(value: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 times a power of ten."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if m * power >= value * (1 - 1e-9))


def _x(part: float) -> float:
    return _LEFT + part * (_WIDTH - _LEFT - 12)


def _y(part: float) -> float:
    return _HEIGHT - _BOTTOM - part * (_HEIGHT - _BOTTOM - _TOP)


def _frame(title: str, top: float) -> list[str]:
    marks = [f'<text x="4" y="14" font-weight="bold">{escape(title)}</text>']
    for k in range(5):
        y = _y(k / 4)
        marks.append(_line(_LEFT, y, _WIDTH - 12, y, FAINT, 0.7))
        marks.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{top * k / 4:.3g}</text>')
    return marks


def _step_axis(last: float) -> list[str]:
    y = _HEIGHT - _BOTTOM + 15
    return [
        f'<text x="{_x(k / 4):.1f}" y="{y}" text-anchor="middle">{last * k / 4:.0f}</text>' for k in range(5)
    ]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _polyline(points: Sequence[str], colour: str, style: str) -> str:
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" {style}/>'


def _svg(marks: Sequence[str], height: int) -> str:
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, *marks, "</svg>"])
