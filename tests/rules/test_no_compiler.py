"""Commands that read configs or make data neither build nor load the compiled operators."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from maskrcnn.cli import main
from maskrcnn.native import library
status = main(sys.argv[1:])
assert status == 0, status
assert not library._states, library._states
"""


@pytest.mark.parametrize(
    "command",
    [
        ["config", "check", "configs/demo.yaml"],
        ["config", "show", "configs/demo.yaml"],
        ["data", "synthetic", "--out", "data", "--train", "1", "--val", "1", "--size", "64"],
        ["zoo"],
    ],
    ids=" ".join,
)
def test_it_runs_without_a_compiler(tmp_path: Path, command: list[str]) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\nexit 1\n')
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "CXX": str(compiler),
        "MASKRCNN_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "called").exists()


def test_the_first_call_of_an_operator_loads_them() -> None:
    """So that the rule above is not kept by an operator that is never compiled."""
    program = (
        "import torch\nfrom maskrcnn.layers import roi_align\nfrom maskrcnn.native import library\n"
        "assert not library._states\n"
        "roi_align(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 2, 1.0)\n"
        "assert library._states\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
