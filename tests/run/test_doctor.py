"""What `maskrcnn doctor` says in health and in sickness."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from maskrcnn import layers
from maskrcnn.cli import doctor
from maskrcnn.layers import ops
from maskrcnn.native import build
from maskrcnn.native import library as _library
from maskrcnn.run import doctor as diagnostics

MISSING = _library.LoadState(False, None, "no compiler is found")
PRESENT = _library.LoadState(True, Path("somewhere.so"), "built ahead of time")


@pytest.fixture(autouse=True)
def loaded() -> None:
    """What is told to be loaded below is loaded."""
    ops.compiled_devices()


def say(monkeypatch: pytest.MonkeyPatch, cpu: _library.LoadState) -> diagnostics.Report:
    monkeypatch.setattr(_library, "load", lambda: {"cpu": cpu, "cuda": MISSING})
    return diagnostics.diagnose()


def line(report: diagnostics.Report, name: str) -> str:
    found = [text for text in report.lines if text.startswith(name)]
    assert len(found) == 1, report
    return found[0].removeprefix(name).strip()


def test_a_healthy_installation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = say(monkeypatch, PRESENT)
    assert report.healthy
    assert line(report, "CPU ops") == "loaded from somewhere.so: built ahead of time"
    assert line(report, "trial") == "roi_align on cpu computes what it should"
    assert line(report, "torch").startswith(f"{torch.__version__}, ")
    assert "numpy" in line(report, "dependencies") or "not installed" in line(report, "dependencies")
    assert line(report, "verdict") == "the compiled operators work"
    assert doctor.run(argparse.Namespace(data=None)) == 0
    assert capsys.readouterr().out == f"{report}\n"


def test_for_which_gpus_the_object_of_a_wheel_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Said without a GPU too, where it is not loaded."""
    monkeypatch.setattr(build, "ahead_of_time", lambda kind: tmp_path / f"_ops_{kind}.so")
    info = build.BuildInfo("key", "nvcc", "8.0;9.0+PTX", "2.10.0")
    (tmp_path / "_ops_cuda.so").touch()
    build.stamp_path(tmp_path / "_ops_cuda.so").write_text(json.dumps(asdict(info)))
    report = say(monkeypatch, PRESENT)
    assert (
        line(report, "CUDA ops") == "not loaded: no compiler is found; the object is for GPUs of 8.0;9.0+PTX"
    )
    assert "GPUs" not in line(report, "CPU ops")


def test_an_installation_without_compiled_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    report = say(monkeypatch, MISSING)
    assert not report.healthy
    assert line(report, "CPU ops") == "not loaded: no compiler is found"
    assert "plain torch" in line(report, "verdict")
    assert doctor.run(argparse.Namespace(data=None)) == 1


def test_an_operator_that_computes_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "roi_align", lambda *args: torch.zeros(1, 3, 2, 2))
    report = say(monkeypatch, PRESENT)
    assert not report.healthy
    assert "WRONG" in line(report, "trial")
    assert "do not work" in line(report, "verdict")


def test_an_operator_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> torch.Tensor:
        raise RuntimeError("undefined symbol")

    monkeypatch.setattr(layers, "roi_align", fail)
    report = say(monkeypatch, PRESENT)
    assert not report.healthy
    assert "fails: undefined symbol" in line(report, "trial")


def test_the_environment_in_force_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in diagnostics.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert line(say(monkeypatch, PRESENT), "environment") == "nothing set that matters"
    monkeypatch.setenv("FORCE_CUDA", "0")
    assert line(say(monkeypatch, PRESENT), "environment") == "FORCE_CUDA=0"


def test_a_missing_compiler_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "apt-get install g++" in line(say(monkeypatch, PRESENT), "C++ compiler")
