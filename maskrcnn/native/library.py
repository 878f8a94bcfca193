"""Finds, builds if need be, and loads the compiled operators, once a process.

After :func:`load` the operators are in ``torch.ops.maskrcnn``, or a single warning has said why they are
not and what to install, and the callers use their reference implementations in plain torch.

Environment variables: MASKRCNN_REFERENCE_OPS=1 asks for the reference implementations on purpose;
MASKRCNN_REQUIRE_OPS=1 makes a failure to load an error instead of a warning (for continuous integration).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from maskrcnn.native import build as _build
from maskrcnn.native import cache as _cache


@dataclass(frozen=True)
class LoadState:
    """What became of one object."""

    #: Whether its operators can be called.
    loaded: bool
    #: Where it was loaded from; None if it was not.
    path: Path | None
    #: In words: how it was made, or why it is not loaded.
    reason: str


_lock = threading.Lock()
_states: dict[_build.Kind, LoadState] = {}


def compiled() -> bool:
    """Whether the compiled CPU operators are there (loads them if that was not tried yet)."""
    return load()["cpu"].loaded


def cuda_compiled() -> bool:
    """Whether the compiled CUDA operators are there (loads them if that was not tried yet)."""
    return load()["cuda"].loaded


def at_hand() -> bool:
    """Whether the compiled CPU operators can be called, once those built before were loaded; builds nothing.

    For work that is faster with them and not worth a compilation.
    """
    with _lock:
        if not _states and not _reference_asked():
            cpu = _load_one("cpu", build=False)
            if cpu.loaded:
                _states["cpu"] = cpu
        return "cpu" in _states and _states["cpu"].loaded


def load() -> dict[_build.Kind, LoadState]:
    """Load the compiled operators; the first call does the work, later ones return its result."""
    with _lock:
        if "cuda" not in _states:
            states = _load_all()
            _states.update(states)
        return dict(_states)


def _reference_asked() -> bool:
    return os.environ.get("MASKRCNN_REFERENCE_OPS", "0") not in ("", "0")


def _load_all() -> dict[_build.Kind, LoadState]:
    if _reference_asked():
        asked = LoadState(False, None, "MASKRCNN_REFERENCE_OPS asks for the reference implementations")
        return {"cpu": asked, "cuda": asked}
    required = os.environ.get("MASKRCNN_REQUIRE_OPS", "0") not in ("", "0")
    cpu = _states.get("cpu") or _load_one("cpu")
    if not cpu.loaded:
        if required:
            raise RuntimeError(f"MASKRCNN_REQUIRE_OPS is set, but {cpu.reason}")
        _warn(
            f"the compiled RoI operators are not available, slow ones in plain torch take over: {cpu.reason} "
            "(`maskrcnn doctor` says more; MASKRCNN_REFERENCE_OPS=1 silences this)"
        )
        return {"cpu": cpu, "cuda": LoadState(False, None, "the CPU object, which it needs, is not loaded")}
    return {"cpu": cpu, "cuda": _load_cuda()}


def _load_cuda() -> LoadState:
    if torch.version.cuda is None:
        return LoadState(False, None, "this torch is a CPU-only build")
    cuda = _load_one("cuda")
    if not cuda.loaded and _build.gpu_present() and os.environ.get("FORCE_CUDA") != "0":
        _warn(
            f"the RoI operators are not compiled for CUDA, slow ones in plain torch take over: {cuda.reason}"
        )
    return cuda


def _load_one(kind: _build.Kind, build: bool = True) -> LoadState:
    """Try the object built ahead of time, then the cache, then, to ``build``, the compiler."""
    notes: list[str] = []
    for library, how in _candidates(kind, notes, build):
        try:
            torch.ops.load_library(library)
        except OSError as error:
            notes.append(f"{library} does not load: {error}")
        else:
            return LoadState(True, library, "; ".join([how, *notes]))
    return LoadState(False, None, "; ".join(notes))


def _candidates(kind: _build.Kind, notes: list[str], build: bool) -> Iterator[tuple[Path, str]]:
    """Objects that may be loaded, and how each was made; ``notes`` takes why there are no others."""
    library = _build.ahead_of_time(kind)
    stale = _stale(kind, library)
    if stale is None:
        yield library, "built ahead of time"
    elif stale:
        notes.append(stale)
    torch_dir = Path(torch.__file__).resolve().parent
    refusal = _build.cuda_reason(torch_dir) if kind == "cuda" else None
    try:
        plan = None if refusal is not None else _build.plan(kind, torch_dir)
    except _build.BuildError as error:
        plan, refusal = None, str(error)
    if kind == "cpu" or refusal is None:
        cached = _cache.find_cached(kind, plan)
        if cached is not None:
            yield cached, "built at an earlier import"
    if plan is not None and build:
        try:
            built = _cache.build_cached(plan, _announce)
        except _build.BuildError as error:
            refusal = str(error)
        else:
            yield built, "built at this import"
    if refusal is not None:
        notes.insert(0, refusal)


def _stale(kind: _build.Kind, library: Path) -> str | None:
    """Return why the object built ahead of time must not be used; None if it may, empty if there is none."""
    if not library.is_file():
        return ""
    stamp = _build.read_stamp(library)
    if stamp is None or stamp.source_key != _build.source_key(kind):
        return f"{library} was built from other sources or flags"
    if kind == "cuda" and stamp.archs != _build.DEFAULT_ARCHS:
        missing = [cap for cap in _build.gpu_capabilities() if not _build.covers(stamp.archs, cap)]
        if missing:
            return f"{library} is built for {stamp.archs}, not for this machine's {', '.join(missing)}"
    return None


def _is_main_process() -> bool:
    """Whether messages belong here: of many ranks and workers one speaks."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and multiprocessing.parent_process() is None


def _announce(message: str) -> None:
    if _is_main_process():
        print(f"maskrcnn: {message}", file=sys.stderr, flush=True)


def _warn(message: str) -> None:
    if _is_main_process():
        warnings.warn(f"maskrcnn: {message}", RuntimeWarning, stacklevel=2)
