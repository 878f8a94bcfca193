"""Objects kept for later processes; the test with four processes alone needs torch's headers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn.native import build as _build
from maskrcnn.native import cache as _cache
from maskrcnn.native import library as _library
from tests.native.house import VARIABLES, House, needs_compiler


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKRCNN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert _cache.cache_dir() == Path.home() / ".cache/maskrcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert _cache.cache_dir() == Path("/x/maskrcnn")
    monkeypatch.setenv("MASKRCNN_CACHE", "~/y")
    assert _cache.cache_dir() == Path.home() / "y"


@needs_compiler
def test_a_cached_object_serves_after_the_compiler_is_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = house.start_again(monkeypatch)
    monkeypatch.setenv("PATH", "")
    assert house.start_again(monkeypatch).path == built.path


@needs_compiler
def test_what_was_built_is_at_hand_and_nothing_is_built_for_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.log_compiler(monkeypatch)
    assert not _library.at_hand()
    assert house.compiler_runs() == 0 and not house.loaded
    built = house.start_again(monkeypatch)  # not being at hand does not keep it from being built later
    runs = house.compiler_runs()
    assert built.loaded and runs > 0
    monkeypatch.setattr(_library, "_states", {})
    assert _library.at_hand() and _library.at_hand()
    assert house.loaded[1:] == [built.path] and house.compiler_runs() == runs
    assert _library.load()["cpu"].path == built.path
    assert len(house.loaded) == 2, "what is at hand is not loaded again"
    monkeypatch.setattr(_library, "_states", {})
    monkeypatch.setenv("MASKRCNN_REFERENCE_OPS", "1")
    assert not _library.at_hand()


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.cache.write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="cannot be written.*set MASKRCNN_CACHE"):
        assert not _library.compiled()


@needs_compiler
def test_of_four_processes_one_compiles_and_all_load(tmp_path: Path) -> None:
    """A copy of the modules with one operator of its own; a slow compiler makes the others wait."""
    layers = tmp_path / "maskrcnn/native"
    layers.mkdir(parents=True)
    (layers.parent / "__init__.py").touch()
    (layers / "__init__.py").touch()
    for module in (_build, _cache, _library):
        shutil.copy(str(module.__file__), layers)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc/ops.cpp").write_text(
        "#include <torch/csrc/stable/library.h>\n#include <torch/csrc/stable/macros.h>\n"
        'STABLE_TORCH_LIBRARY(maskrcnn, m) { m.def("answer(Tensor x) -> Tensor"); }\n'
    )
    compiler = tmp_path / "slow-g++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *" -c "*) echo "$*" >> {tmp_path}/log; sleep 2 ;; esac\nexec g++ -O0 "$@"\n'
    )
    compiler.chmod(0o755)
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "from maskrcnn.native import library as _library\n"
        "state = _library.load()['cpu']\n"
        "print(state.path, torch.ops.maskrcnn.answer.default._schema)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {
        "CXX": str(compiler),
        "MASKRCNN_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment | {"FORCE_CUDA": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, results
    assert len({out for out, _ in results}) == 1
    assert "maskrcnn::answer(Tensor x) -> Tensor" in results[0][0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert sum("compiling the RoI operators" in err for _, err in results) == 1
