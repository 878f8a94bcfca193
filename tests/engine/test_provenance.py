"""The code's fingerprint follows what decides results, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.data.transforms.basic import HorizontalFlip
from maskrcnn.data.transforms.pipelines import PipelineStep
from maskrcnn.data.transforms.torchvision_pipeline import TorchvisionPipeline
from maskrcnn.engine.provenance import code_fingerprint, versions


def test_the_fingerprint_follows_what_decides_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["maskrcnn/__init__.py", "maskrcnn/modeling/x.py", "csrc/ops.cpp"]
    others = ["maskrcnn/viz/x.py", "maskrcnn/studies/a/x.py", "maskrcnn/cli/x.py", "maskrcnn/modeling/x.md"]
    for name in (*files, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    monkeypatch.setattr(maskrcnn, "__file__", str(tmp_path / "maskrcnn/__init__.py"))
    found = [code_fingerprint()]
    for name in others:
        (tmp_path / name).write_text("x = 2")
    assert code_fingerprint() == found[0]
    for name in files:
        (tmp_path / name).write_text("x = 2")
        assert code_fingerprint() not in found
        found.append(code_fingerprint())
    (tmp_path / "csrc/ops.cpp").rename(tmp_path / "csrc/other.cpp")
    assert code_fingerprint() not in found


def test_versions_are_of_the_libraries_that_the_transforms_use_and_of_no_others() -> None:
    steps = TorchvisionPipeline(pipeline=(PipelineStep(name="RandomGrayscale"),))
    assert set(versions([HorizontalFlip()])) == {"maskrcnn", "torch", "python"}
    assert versions([HorizontalFlip(), steps])["torchvision"].startswith("0.")
