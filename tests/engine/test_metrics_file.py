from __future__ import annotations

import math
from pathlib import Path

from maskrcnn.engine.metrics_file import MetricsFile, read_metrics


def test_a_resumed_run_has_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in (1, 2, 3, 4):
        first.write(step, "train", {"loss": float(step)})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 5, "kind": "tr')  # killed in the middle of a line
    second = MetricsFile(path, start_step=2)
    second.write(3, "train", {"loss": 30.0})
    second.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_non_finite_numbers_stay_valid_json(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m.jsonl")
    file.write(1, "train", {"loss": math.nan, "kind_of": "x", "images": 3})
    file.close()
    assert read_metrics(file.path) == [
        {"step": 1, "kind": "train", "loss": None, "kind_of": "x", "images": 3}
    ]


def test_no_file_has_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none") == []
