from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn.engine.distributed import Ranks, choose_device, connect
from maskrcnn.errors import UserError
from maskrcnn.recipe import load_recipe
from maskrcnn.run import setup
from tests.engine.tiny import write_recipe

ROOT = Path(__file__).resolve().parents[2]


def test_one_process_answers_itself() -> None:
    ranks = connect("cpu")
    assert (ranks.rank, ranks.size, ranks.is_main) == (0, 1, True)
    ranks.barrier()
    assert ranks.gather(3) == [3]
    assert ranks.share("x") == "x"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence() -> None:
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="PyTorch sees no GPU"):
        choose_device("cuda")


def test_a_batch_that_cannot_be_dealt_out_is_a_sentence(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["solver.batch_size=6", "solver.accumulate=2"])
    assert setup.images_per_pass(recipe, Ranks(0, 3, 0, torch.device("cpu"))) == 1
    with pytest.raises(UserError, match="batch_size 6 cannot be dealt evenly to 2 processes x 2 passes"):
        setup.images_per_pass(recipe, Ranks(0, 2, 0, torch.device("cpu")))


def test_two_processes(tmp_path: Path) -> None:
    """Everything that needs two ranks, in one start of torchrun: see two_ranks.py."""
    recipe = write_recipe(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.engine.two_ranks", str(recipe), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
