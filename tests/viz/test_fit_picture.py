"""The picture of sizes, anchors and caps says what the data are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.viz.fit_picture import Fit, draw_fit
from tests.engine.tiny import write_recipe
from tests.rules.pages import ROOT


def fit(**others: Any) -> Fit:
    sizes = np.array([[4.0, 4.0], [16.0, 16.0], [30.0, 10.0], [64.0, 32.0]])
    values: dict[str, Any] = {
        "sizes": sizes,
        "reached": np.array([False, True, True, True]),
        "anchors": np.array([[16.0, 16.0], [32.0, 32.0]]),
        "counts": np.array([1, 1, 2, 7, 0]),
        "small": 8.0,
        "caps": [("low", 1), ("high", 100)],
    }
    return Fit(**(values | others))


def words(figure: Any) -> list[str]:
    return [
        t for panel in figure.axes for t in (panel.get_title("left"), *(x.get_text() for x in panel.texts))
    ]


def test_shares_are_those_of_the_data() -> None:
    assert words(draw_fit(fit(), "nuclei")) == [
        "size: 25% under 8 px",
        "anchors (squares) reach 75%",
        "caps: at most 7 objects an image",
        "low: 1\n40% of images have more",
        "high: 100\nno image has more",
    ]


def test_objects_fall_on_their_side_of_the_line() -> None:
    small, others = draw_fit(fit(), "").axes[0].containers
    assert sum(bar.get_height() for bar in small) == 1 and sum(bar.get_height() for bar in others) == 3
    assert all(bar.get_x() + bar.get_width() <= 8.01 for bar in small if bar.get_height())
    assert all(bar.get_x() >= 7.99 for bar in others if bar.get_height())


def test_the_script_draws_a_config(tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path), tmp_path / "fit.png"
    script = [sys.executable, str(ROOT / "tools/draw_fit.py"), str(recipe), "--out", str(out)]
    subprocess.run([*script, "--set", "model.roi.max_detections=1"], check=True, capture_output=True)
    assert out.read_bytes().startswith(b"\x89PNG")
