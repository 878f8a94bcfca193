from __future__ import annotations

import math

import pytest

from maskrcnn.viz.charts import Chart, Scale, axis_to, bar_chart, dot_chart, line_chart
from maskrcnn.viz.palette import QUIET, SERIES


@pytest.mark.parametrize(
    ("value", "most", "end", "step"),
    [
        (0.0, math.inf, 1.0, 0.25),
        (0.31, 1.0, 0.4, 0.1),
        (1.05, 1.0, 1.0, 0.2),
        (7.0, math.inf, 8.0, 2.0),
        (140.0, math.inf, 150.0, 50.0),
        (90000.0, math.inf, 100000.0, 20000.0),
    ],
)
def test_axes_end_at_round_numbers(value: float, most: float, end: float, step: float) -> None:
    axis = axis_to(value, most)
    assert (axis.low, axis.high, axis.step) == pytest.approx((0.0, end, step))
    assert 3 <= len(axis.ticks) <= 6 and axis.ticks[-1] == pytest.approx(end)


def test_a_line_chart_draws_each_seed_and_their_mean() -> None:
    two = [[(1, 4.0), (2, 2.0)], [(1, 2.0), (2, 0.0)]]
    chart = line_chart("loss", {"a": two, "b": [[(1, 1.0), (2, 1.0)]]})
    first, second, mean, only = chart.lines  # a mean of one curve is that curve
    for k in range(2):
        assert mean.points[k] == (k + 1, (first.points[k][1] + second.points[k][1]) / 2)
    assert mean.width > first.width and mean.colour == first.colour == SERIES[0]
    assert only.colour == SERIES[1] and only.points == [(1, 1.0), (2, 1.0)]
    assert chart.x.high == 2 and chart.x.ticks[-1] == 2


def test_a_curve_of_one_point_is_a_dot() -> None:
    """As AP of a run that was evaluated once, beside one of many evaluations."""
    chart = line_chart("AP", {"a": [[(1, 0.2), (2, 0.4)]], "b": [[(2, 0.1)]]})
    (dot,) = chart.marks
    assert (dot.x, dot.y, dot.kind, dot.name) == (2, 0.1, "dot", "b")
    assert dot.colour == chart.lines[1].colour


def test_the_largest_of_many_values_do_not_set_the_axis() -> None:
    chart = line_chart("loss", {"a": [[(k, 1000.0 if k == 0 else 1.0) for k in range(200)]]})
    assert chart.y.high < 2
    assert chart.down(1000.0) == chart.down(chart.y.high)


def test_a_dot_chart_sets_values_beside_each_other() -> None:
    chart = dot_chart("AP", {"a": ([0.2, 0.4], None), "b": ([], 0.9)}, 1.0)
    kinds = [m.kind for m in chart.marks]
    assert kinds == ["bar", "dot", "dot", "cross"]
    bar, one, two, cross = chart.marks
    assert bar.y == pytest.approx(0.3) and one.shift == -two.shift != 0
    assert cross.colour == QUIET and cross.x > bar.x
    assert "a: 0.200" in one.name and chart.y.high == 1.0


def test_places_are_in_pixels_of_the_whole() -> None:
    chart = Chart("t", Scale(0, 10, 5), Scale(0, 2, 1))
    assert (chart.across(0), chart.across(10)) == (Chart.left, Chart.width - Chart.right)
    assert (chart.down(0), chart.down(2)) == (Chart.height - Chart.bottom, Chart.top)
    assert chart.down(1) == (chart.down(0) + chart.down(2)) / 2  # larger values are higher up


def test_a_bar_chart_has_a_bar_and_a_name_a_value() -> None:
    chart = bar_chart("costs", {"class": 0.1, "missed": 0.3}, "AP50")
    assert [name for _, name in chart.names] == ["class", "missed"]
    first, second = chart.bars
    assert first.x1 < chart.names[0][0] < first.x2 < second.x1 < chart.names[1][0] < second.x2
    assert chart.down(second.y) < chart.down(first.y) < chart.down(0) and chart.y.high == pytest.approx(0.4)
    assert bar_chart("none", {}).bars == []
