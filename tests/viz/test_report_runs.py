"""Parts about runs: curves in the runs' own colours, and what differs."""

from __future__ import annotations

from typing import Any

from maskrcnn.viz.palette import SERIES
from maskrcnn.viz.report_runs import MOST_POINTS, differences_part, runs_part, training_part


def records(kind: str, key: str, values: list[float | None]) -> list[dict[str, Any]]:
    return [{"step": 10 * (i + 1), "kind": kind, key: v} for i, v in enumerate(values)]


def test_a_curve_has_its_run_s_colour_whatever_the_others_have() -> None:
    part = training_part(
        {
            "a": records("train", "loss", [3.0, 2.0]),
            "b": [*records("train", "loss", [2.5, None, 1.5]), *records("eval", "segm/AP", [0.1, 0.3])],
        }
    )
    assert part is not None and [name for name, _ in part.legend] == ["a", "b"]
    loss, ap = part.charts
    assert [(line.name, line.colour) for line in loss.lines] == [("a", SERIES[0]), ("b", SERIES[1])]
    assert list(loss.lines[1].points) == [(10, 2.5), (30, 1.5)]
    assert (ap.title, [line.colour for line in ap.lines]) == ("AP of masks", [SERIES[1]])
    assert ap.y.high <= 1.0
    assert training_part({"a": records("train", "loss", [3.0])}) is None


def test_a_run_that_was_evaluated_once_has_a_dot_of_its_colour() -> None:
    part = training_part(
        {
            "none": records("train", "loss", [3.0, 2.0]),
            "once": records("eval", "segm/AP", [0.2]),
            "twice": records("eval", "segm/AP", [0.1, 0.3]),
        }
    )
    assert part is not None
    _, ap = part.charts
    assert [(m.x, m.y, m.colour, m.name) for m in ap.marks] == [(10, 0.2, SERIES[1], "once")]
    assert ap.lines[1].colour == SERIES[2]


def test_very_long_curves_are_thinned() -> None:
    part = training_part({"a": records("train", "loss", [1.0] * 5000)})
    assert part is not None and len(part.charts[0].lines[0].points) < 1.1 * MOST_POINTS


def test_runs_stand_side_by_side_with_what_differs() -> None:
    figures = {"a": {"step": 5, "figures": {"segm": {"AP": 0.25}}}, "b": {}}
    part = runs_part(figures, [("seed", ("0", "1"))])
    values, keys = part.tables
    assert list(map(list, values.rows)) == [["step", "5", "n/a"], ["masks: AP", "0.250", "n/a"]]
    assert list(map(list, keys.rows)) == [["seed", "0", "1"]] and not part.notes
    assert runs_part(figures, []).notes


def change(first: float, second: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"first": first, "second": second, "value": second - first, "low": low, "high": high}


def test_an_interval_that_does_not_hold_0_is_marked() -> None:
    ap = [change(0.25, 0.5, 0.125, 0.375), change(0.5, 0.25, -0.5, -0.125), change(0.25, 0.5, -0.125, 0.625)]
    found = {
        "intervals": {"level": 0.95, "resamples": 500},
        "images": 1,
        "figures": {"segm": {"AP": ap[0], "AP50": change(0.25, 0.5, None, None)}},
        "classes": {"segm": [{"name": n, "AP": a} for n, a in zip("xyz", ap, strict=True)]},
    }
    part = differences_part(2, ("one", "two"), found)
    assert part.anchor == "differences-2" and part.notes[0].startswith("1 image; intervals of 95%")
    figures, classes = part.tables
    assert list(map(list, figures.rows)) == [
        ["AP", "0.250", "0.500", "0.250 (0.125 to 0.375)", "yes"],
        ["AP50", "0.250", "0.500", "0.250", ""],
    ]
    assert [row[-1] for row in classes.rows] == ["yes", "yes", ""]
