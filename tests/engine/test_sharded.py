"""Weights dealt out over ranks; what several of them do together stands in sharded_ranks.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
from torch import nn

from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.console import Console
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.engine.sharded import stages
from maskrcnn.engine.strategy import STRATEGIES, Strategy, choose_strategy
from maskrcnn.errors import ConfigError
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train
from tests.engine.line import ALONE
from tests.engine.sharded_ranks import CHANGES
from tests.engine.tiny import write_recipe

ROOT = Path(__file__).resolve().parents[2]


def start(ranks: int, *words: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.engine.sharded_ranks", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def losses(run: Path) -> list[float]:
    return [float(r["loss"]) for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"]


def alone(recipe: Path, folder: Path, steps: int) -> None:
    keys = [f"solver.steps={steps}", *CHANGES]
    train(load_recipe(recipe, keys), folder, resume=True, console=Console(quiet=True))


def test_steps_of_sharded_models_are_those_of_whole_ones_and_states_come_back(tmp_path: Path) -> None:
    start(2, "check", write_recipe(tmp_path))


@pytest.mark.slow
def test_checkpoints_go_from_dealt_out_to_whole_and_back_over_any_number_of_ranks(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    straight, one, three = (tmp_path / name for name in ("straight", "one", "three"))
    start(2, "train", recipe, one, "fsdp", 5, straight, "ddp", 5)
    copytree(one, three)
    for folder in (one, straight):
        alone(recipe, folder, 7)
    start(3, "train", recipe, three, "ddp", 7)
    start(2, "train", recipe, one, "fsdp", 9, three, "fsdp", 9, straight, "ddp", 9)
    assert len(losses(one)) == 9
    alone(recipe, tmp_path / "alone", 9)
    for run in (one, three, straight):  # ranks share the batches that one process has
        assert losses(run) == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    assert losses(three)[:5] == losses(one)[:5]
    states = [load(run / "checkpoints" / "last.pt") for run in (one, three, straight)]
    assert [state.step for state in states] == [9, 9, 9]
    assert all(state.model.keys() == states[0].model.keys() for state in states)


def test_what_is_gathered_at_once() -> None:
    backbone = nn.Module()
    backbone.stem = nn.Conv2d(3, 4, 1)
    block = nn.Module()
    block.down = nn.Sequential(nn.Conv2d(4, 4, 1))  # as in a ResNet: inside of a stage
    backbone.layer1, backbone.pool = nn.Sequential(nn.Conv2d(4, 4, 1), block), nn.Sequential(nn.MaxPool2d(2))
    model = nn.Module()
    model.backbone, model.rpn, model.roi = backbone, nn.Linear(2, 2), nn.Linear(2, 2)
    model.neck = None
    assert stages(model) == [backbone.layer1, backbone, model.rpn]
    assert stages(nn.Linear(2, 2)) == []


def test_one_process_has_nothing_to_deal_out() -> None:
    assert STRATEGIES.names() == ["ddp", "fsdp"]
    assert type(choose_strategy(ALONE, nn.Linear(2, 2), "fsdp")) is Strategy


def test_compiled_models_are_not_dealt_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compile and strategy: fsdp do not go together; set compile"):
        load_recipe(write_recipe(tmp_path), ["solver.compile=true", "solver.strategy=fsdp"])
