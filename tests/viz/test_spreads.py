from __future__ import annotations

import numpy as np

from maskrcnn.viz.palette import series_colour
from maskrcnn.viz.spreads import Measure, draw_spreads

QUANTILES = (1.0, 2.0, 3.0, 4.0, 6.0)


def test_a_panel_a_measure_and_column_with_every_distribution() -> None:
    one_measure = [[QUANTILES, (2.0, 3.0, 4.0, 5.0, 7.0)], [QUANTILES, QUANTILES]]  # [tick][series]
    columns = [("small", [one_measure, one_measure]), ("large", [one_measure, one_measure])]
    figure = draw_spreads(
        "title", [Measure("shift"), Measure("IoU", limits=(0, 1))], columns, ["4", "8"], ["x", "y"],
        axis="stride", note="a note",
    )  # fmt: skip
    axes = np.array(figure.axes).reshape(2, 2)
    assert [a.get_ylabel() for a in axes[:, 0]] == ["shift", "IoU"]
    assert axes[1, 0].get_ylim() == (0, 1)
    assert axes[0, 0].get_ylim()[1] >= 7
    drawn = [tuple(np.round(line.get_ydata(), 6)) for line in axes[0, 0].lines]
    assert drawn[:6] == [(1.0, 6.0), (2.0, 4.0), (3.0,), (2.0, 7.0), (3.0, 5.0), (4.0,)]
    assert len(drawn) == 12, "two ticks, two series, three strokes each"
    words = " ".join(text.get_text() for text in figure.findobj(lambda o: hasattr(o, "get_text")))
    for word in ("title", "small", "large", "a note", "x", "y", "4", "8"):
        assert word in words
    assert series_colour(0) != series_colour(1)
