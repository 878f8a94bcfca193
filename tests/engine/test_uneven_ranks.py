"""Ranks of unequal shares: none hangs, none counts for more than its images."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.engine.console import Console
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train
from tests.engine.tiny import write_data, write_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def start(recipe: Path, ranks: int, runs: dict[Path, list[str]]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"]
    words = [str(word) for folder, keys in runs.items() for word in (folder, " ".join(keys))]
    done = subprocess.run(
        [*command, "-m", "tests.engine.uneven_ranks", str(recipe), *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def steps(run: Path) -> list[dict[str, Any]]:
    return [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"]


def test_unequal_shares(recipe: Path, tmp_path: Path) -> None:
    """In one start of three ranks, beside one process with all images."""
    images = tmp_path / "one"
    write_data(images, train=1, val=2)  # of one image, without an object; fewer images than ranks
    few = [
        f"data.{part}.{key}={images}{end}"
        for part, name in (("train", "train"), ("val", "val"))
        for key, end in (("images", ""), ("annotations", f"/{name}.json"))
    ]
    forms = {
        # val: 3 images, of which 2 go to no rank evenly; a batch in which not every rank has an object.
        "shares": [
            *("solver.steps=3", "solver.batch_size=6", "solver.schedule.warmup_steps=0"),
            "data.train_transforms=[hflip]",
        ],
        "nothing": ["solver.steps=2", "solver.batch_size=3", "train.check_data=none", *few],
    }
    start(recipe, 3, {tmp_path / name: keys for name, keys in forms.items()})
    for name, keys in forms.items():
        train(load_recipe(recipe, keys), tmp_path / f"{name}_alone", console=Console(quiet=True))
        together, alone = steps(tmp_path / name), steps(tmp_path / f"{name}_alone")
        assert len(together) == len(alone) == int(keys[0][-1])
        for one in together:
            assert math.isfinite(one["loss"]) and one["grad_norm"] > 0
        # The same images in each step, and the losses of all of them; to rounding, which later steps enlarge.
        names = [name for name in alone[0] if name.startswith("loss")]
        assert "loss_mask" in names
        for name in names:
            assert together[0][name] == pytest.approx(alone[0][name], rel=1e-4)
            assert [r[name] for r in together] == pytest.approx([r[name] for r in alone], rel=2e-2)
    for name, count in (("shares", 3), ("nothing", 2)):
        found = json.loads((tmp_path / name / "results.json").read_text())
        own = json.loads((tmp_path / f"{name}_alone" / "results.json").read_text())
        assert {r["image_id"] for r in found} == {r["image_id"] for r in own}
        assert len({r["image_id"] for r in found}) == count
        assert [r["image_id"] for r in found] == sorted(r["image_id"] for r in found)
