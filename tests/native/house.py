"""A pretended installation of plain C++; torch's loader is replaced by one that writes down what it gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskrcnn.native import build as _build
from maskrcnn.native import library as _library

needs_compiler = pytest.mark.skipif(_build.find_cxx() is None, reason="no C++ compiler (apt-get install g++)")

VARIABLES = (
    *("MASKRCNN_REFERENCE_OPS", "MASKRCNN_REQUIRE_OPS", "MASKRCNN_SANITIZE", "FORCE_CUDA", "CXX", "CUDACXX"),
    *("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "LOCAL_RANK"),
)


class House:
    """A pretended installation: its sources, its objects, and what was loaded from it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.csrc = root / "csrc"
        self.cache = root / "cache"
        self.compiler_log = root / "compiler.log"
        self.loaded: list[Path] = []
        (self.csrc / "cpu").mkdir(parents=True)
        (self.csrc / "ops.cpp").write_text('#include "one.h"\nint one() { return ONE; }\n')
        (self.csrc / "one.h").write_text("#define ONE 1\n")
        (self.csrc / "cpu/two.cpp").write_text("int two() { return 2; }\n")
        torch_dir = root / "torch"
        (torch_dir / "lib").mkdir(parents=True)
        # `-ltorch_cpu` must find something to link with.
        (torch_dir / "lib/libtorch_cpu.so").write_text("/* an empty linker script */\n")
        (torch_dir / "include/torch/csrc/stable").mkdir(parents=True)
        (torch_dir / "include/torch/csrc/stable/library.h").touch()
        (torch_dir / "version.py").write_text("__version__ = '2.99.0'\ncuda: Optional[str] = None\n")
        self.torch_dir = torch_dir
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MASKRCNN_CACHE", str(self.cache))
        monkeypatch.setattr(_build, "csrc_dir", lambda: self.csrc)
        monkeypatch.setattr(_build, "ahead_of_time", lambda kind: root / f"_ops_{kind}.so")
        monkeypatch.setattr(torch, "__file__", str(torch_dir / "__init__.py"))
        monkeypatch.setattr(torch.version, "cuda", None)
        monkeypatch.setattr(torch.ops, "load_library", self.loaded.append)
        monkeypatch.setattr(_library, "_states", {})

    def log_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put a compiler in front that writes a line whenever it compiles or links."""
        script = self.root / "logging-g++"
        script.write_text(
            f'#!/bin/sh\ncase "$*" in *--version*) ;; *) echo "$*" >> {self.compiler_log} ;; esac\n'
            'exec g++ "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))

    def compiler_runs(self) -> int:
        """How often the logging compiler compiled or linked."""
        return len(self.compiler_log.read_text().splitlines()) if self.compiler_log.exists() else 0

    def build_ahead_of_time(self) -> Path:
        """Do what setup.py does."""
        library = _build.ahead_of_time("cpu")
        _build.build(_build.plan("cpu", self.torch_dir), library)
        return library

    def start_again(self, monkeypatch: pytest.MonkeyPatch) -> _library.LoadState:
        """Load as a new process would and return what became of the CPU object."""
        monkeypatch.setattr(_library, "_states", {})
        return _library.load()["cpu"]
