"""What `maskrcnn doctor` prints: the state of the installation in words."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import maskrcnn
from maskrcnn.errors import plural
from maskrcnn.native import build as _build
from maskrcnn.native import cache as _cache
from maskrcnn.native import library as _library
from maskrcnn.viz.tables import aligned

#: Environment variables that change what is built, loaded or how fast it runs.
ENVIRONMENT = (
    *("MASKRCNN_CACHE", "MASKRCNN_CHECK", "MASKRCNN_REFERENCE_OPS", "MASKRCNN_REQUIRE_OPS"),
    *("MASKRCNN_SANITIZE", "MASKRCNN_SHARED_DATA", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "FORCE_CUDA"),
    *("TORCH_CUDA_ARCH_LIST", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "XDG_CACHE_HOME", "LD_PRELOAD"),
)


@dataclass(frozen=True)
class InstallationReport:
    """The findings, one line each, and whether the compiled operators work."""

    lines: tuple[str, ...]
    healthy: bool

    def __str__(self) -> str:
        """Return the text to print."""
        return "\n".join(self.lines)


def diagnose() -> InstallationReport:
    """Load the operators, try them, and report on everything that they depend on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning's text is part of the report
        states = _library.load()
    healthy, trials = _try_operators(states["cpu"].loaded, states["cuda"].loaded)
    threads = plural(torch.get_num_threads(), "thread")
    found = [
        ("maskrcnn", f"{maskrcnn.__version__} in {Path(maskrcnn.__file__).parent}"),
        ("Python", f"{platform.python_version()} at {sys.executable}, {platform.platform()}"),
        ("torch", f"{torch.__version__}, {threads} of {plural(os.cpu_count() or 1, 'core')}"),
        ("CUDA", _cuda()),
        ("C++ compiler", _compiler(_build.find_cxx, "none; install one with `apt-get install g++`")),
        ("nvcc", _compiler(_build.find_nvcc, "none (only needed for a GPU)")),
        ("CPU ops", _describe("cpu", states["cpu"])),
        ("CUDA ops", _describe("cuda", states["cuda"])),
        ("sources", str(_build.csrc_dir())),
        ("cache", str(_cache.cache_dir())),
        *(("trial", trial) for trial in trials),
        ("dependencies", ", ".join(_dependencies())),
        (
            "environment",
            ", ".join(f"{n}={os.environ[n]}" for n in ENVIRONMENT if n in os.environ)
            or "nothing set that matters",
        ),
        ("verdict", _verdict(healthy, states["cpu"])),
    ]
    return InstallationReport(tuple(aligned(found, left=(0, 1))), healthy)


def _describe(kind: _build.Kind, state: _library.LoadState) -> str:
    """What became of an object, and, of one that is there, the GPUs that it is for."""
    stamp = _build.read_stamp(state.path or _build.ahead_of_time(kind))
    said = f"loaded from {state.path}: {state.reason}" if state.loaded else f"not loaded: {state.reason}"
    return f"{said}; the object is for GPUs of {stamp.archs}" if stamp and stamp.archs else said


def _compiler(find: Callable[[], str | None], none: str) -> str:
    name = find()
    if name is None:
        return none
    try:
        return f"{name}: {_build.compiler_version(name)}"
    except _build.BuildError as error:
        return str(error)


def _cuda() -> str:
    if torch.version.cuda is None:
        return "none: this torch is a CPU-only build"
    if not torch.cuda.is_available():
        seen = "a GPU is present but torch cannot use it" if _build.gpu_present() else "no GPU is present"
        return f"torch is built for CUDA {torch.version.cuda}; {seen}"
    devices = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        devices.append(
            f"{device.name} ({device.major}.{device.minor}, {device.total_memory / 2**30:.0f} GiB)"
        )
    return f"torch is built for CUDA {torch.version.cuda}; {', '.join(devices)}"


def _try_operators(cpu: bool, cuda: bool) -> tuple[bool, list[str]]:
    """Pool a ramp whose result is known on each device; the CPU decides on the verdict."""
    from maskrcnn.layers import roi_align

    devices = [*(["cpu"] if cpu else []), *(["cuda"] if cuda and torch.cuda.is_available() else [])]
    works: dict[str, bool] = {}
    lines = []
    for device in devices:
        try:
            ramp = torch.arange(8.0, device=device).expand(1, 3, 8, 8).contiguous()
            box = torch.tensor([[0.0, 1.0, 1.0, 5.0, 5.0]], device=device)
            # Aligned, bins two cells wide: the samples' mean is the bin's centre, x = 2 and 4, less 1/2.
            pooled = roi_align(ramp, box, (2, 2), 1.0, 2, True)
            works[device] = torch.equal(pooled.cpu(), torch.tensor([1.5, 3.5]).expand(1, 3, 2, 2))
            said = (
                "computes what it should" if works[device] else f"computes {pooled[0, 0, 0].tolist()}, WRONG"
            )
            lines.append(f"roi_align on {device} {said}")
        except (RuntimeError, NotImplementedError) as error:
            works[device] = False
            lines.append(f"roi_align on {device} fails: {error}")
    return cpu and all(works.values()), lines


def _dependencies() -> Iterable[str]:
    """Return "name version" of each run-time dependency that the distribution declares."""
    try:
        declared = importlib.metadata.requires("maskrcnn") or []
    except importlib.metadata.PackageNotFoundError:
        return ["maskrcnn is not installed (run `pip install -e .` in the checkout)"]
    names = [
        match.group() for text in declared if (match := re.match(r"[\w.-]+", text)) and "extra" not in text
    ]
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} MISSING")
    return found


def _verdict(healthy: bool, cpu: _library.LoadState) -> str:
    if healthy:
        return "the compiled operators work"
    if not cpu.loaded:
        return "slow operators in plain torch are in use; see 'CPU ops' above"
    return "the compiled operators are loaded but do not work; see 'trial' above"
