"""The script that measures a training step on a GPU: that it runs, and that it counts what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_step import OBJECTS, Plan, count_waits, our_batches, samples, their_batches
from benchmarks.parity.torchvision import ROOT

SCRIPT = [sys.executable, "benchmarks/gpu_step.py"]
CPU = Plan(torch.device("cpu"), (96, 160), rounds=1, steps=1, warm=0)


def test_values_that_are_read_are_counted() -> None:
    values = torch.tensor([1.0, 0.0, 2.0])

    def work() -> None:
        float(values.sum() * 2)
        values.nonzero()

    assert count_waits(CPU, work, 3) == (2.0, 0.0)
    assert count_waits(CPU, lambda: values * 2, 3) == (0.0, 0.0)


def test_both_models_are_given_the_same_images_and_objects() -> None:
    ours = next(our_batches(CPU, 2))
    images, targets = next(their_batches(CPU, 2))
    assert ours.targets is not None and ours.seeds is not None
    for own, image, truth, target in zip(ours.images, images, ours.targets, targets, strict=True):
        assert torch.equal(own.float() / 255, image) and own.dtype == torch.uint8
        assert torch.equal(truth.boxes, target["boxes"]) and torch.equal(truth.labels + 1, target["labels"])
        assert target["masks"].shape == (OBJECTS, 96, 160)
        assert (target["masks"].flatten(1).sum(1) > 0).all()
    sides = samples(50, (800, 1333), 0)[7].targets
    assert sides is not None and (sides.boxes[:, 2:] <= torch.tensor([1333.0, 800.0])).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run(SCRIPT, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "not run: no GPU (--small runs on a CPU)\n"


@pytest.mark.slow
def test_it_runs_small_on_a_cpu(tmp_path: Path) -> None:
    command = [*SCRIPT, "--small", "--device", "cpu", "--out", str(tmp_path / "table.md")]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    text = (tmp_path / "table.md").read_text()
    assert "a CPU: figures that say nothing of a GPU" in text
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[1].strip() for row in rows[:2]] == ["ours", "torchvision"]
    assert [row[1].strip() for row in rows[2:]] == ["ours", "ours, not replayed", "torchvision"]
    assert "one CUDA graph: not run: no GPU" in text
