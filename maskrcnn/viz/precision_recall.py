"""Precision against recall, of each class and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from maskrcnn.viz.figure import new_figure, pixels, style
from maskrcnn.viz.labels import Image
from maskrcnn.viz.palette import INK, series_colour

#: Classes that have a curve of their own.
MOST = 6


def draw_precision_recall(
    precision: Mapping[str, npt.NDArray[np.float64]], names: Sequence[str], counts: Sequence[int]
) -> Image:
    """A panel for each kind of evaluation; the mean of all classes, and those of which there are most.

    Args:
        precision: kind -> [R, K] at R recalls evenly from 0 to 1; NaN for a class without ground truth.
        names: of the K classes.
        counts: instances of each.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = new_figure(4.2 * len(precision), 3.6)
    with style():
        for axes, (kind, values) in zip(
            figure.subplots(1, len(precision), squeeze=False)[0], precision.items(), strict=True
        ):
            recalls = np.linspace(0.0, 1.0, len(values))
            known: list[int] = np.flatnonzero(~np.isnan(values[0])).tolist()
            shown = sorted(known, key=lambda k: -counts[k])[:MOST] if len(known) > 1 else []
            for place, k in enumerate(shown):
                label = f"{names[k][:24]} {values[:, k].mean():.3f}"
                axes.plot(recalls, values[:, k], color=series_colour(place), linewidth=1.2, label=label)
            if known:
                mean = values[:, known].mean(axis=1)
                axes.plot(recalls, mean, color=INK, linewidth=2.0, label=f"AP50 {mean.mean():.3f}")
                axes.legend(loc="lower left", fontsize=7.0)
            axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
            axes.set_title(f"{kind}, IoU 0.50")
        figure.tight_layout()
    return pixels(figure, 100)
