"""The real operators, as loaded in this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from maskrcnn.native import build as _build
from maskrcnn.native import library as _library
from maskrcnn.run import doctor as diagnostics


def test_the_operators_of_this_process_are_those_of_the_present_sources() -> None:
    states = _library.load()
    path = states["cpu"].path
    if path is None:
        pytest.skip(states["cpu"].reason)
    assert path.resolve() in {Path(name).resolve() for name in torch.ops.loaded_libraries}
    stamp = _build.read_stamp(path)
    assert stamp is not None
    assert stamp.source_key == _build.source_key("cpu")
    assert states["cuda"].loaded <= (torch.version.cuda is not None)


def test_loading_twice_is_loading_once() -> None:
    before = set(torch.ops.loaded_libraries)
    assert _library.load() == _library.load()
    assert set(torch.ops.loaded_libraries) == before


def test_the_doctor_finds_them_in_order() -> None:
    report = diagnostics.diagnose()
    assert report.healthy == _library.compiled(), str(report)
    if os.environ.get("MASKRCNN_REQUIRE_OPS", "0") not in ("", "0"):
        assert report.healthy, str(report)
