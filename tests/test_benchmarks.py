"""The scripts under benchmarks/ start, and the one that trains torchvision's model beside ours does so."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.nuclei import CONFIG, ROOT, train_torchvision
from tests.data.files import write_coco

SCRIPTS = [
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.glob("benchmarks/**/*.py"))
    if "ArgumentParser(" in path.read_text("utf-8")
]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_says_what_it_does(script: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "options:" in done.stdout


@pytest.mark.slow
def test_torchvisions_model_trains_on_our_batches(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path)
    data = f"{{type: coco, images: {images}, annotations: {annotations}}}"
    overrides = [f"data.train={data}", f"data.val={data}", "solver.steps=2", "solver.batch_size=1"]
    folder = tmp_path / "run"
    train_torchvision(CONFIG, "roi_align", 0, folder, overrides)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps] == [1, 2]
    assert all(math.isfinite(record["loss_mask"]) and record["loss_mask"] > 0 for record in steps)
    figures = json.loads((folder / "result.json").read_text())["figures"]
    assert "segm/AP@200" in figures
