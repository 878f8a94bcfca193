"""Objects that are built at the first call of an operator: kept for later processes, made by one of many."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from maskrcnn.native import build as _build

#: Seconds one build takes on two cores, for the message the user sees while waiting.
TYPICAL_SECONDS = {"cpu": 30, "cuda": 60}


def cache_dir() -> Path:
    """Return the folder of the objects built at first import: $MASKRCNN_CACHE or ~/.cache/maskrcnn."""
    asked = os.environ.get("MASKRCNN_CACHE")
    if asked:
        return Path(asked).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "maskrcnn"


def find_cached(kind: _build.Kind, plan: _build.Plan | None) -> Path | None:
    """Return a finished object of the present sources from the cache.

    With a plan, the one made as planned.  Without (no compiler here any more), any one of these sources.
    """
    folder = cache_dir() / _build.source_key(kind)
    names = [f"{kind}-{plan.key}.so"] if plan else sorted(path.name for path in folder.glob(f"{kind}-*.so"))
    for name in names:
        if _build.read_stamp(folder / name) is not None:
            return folder / name
    return None


def build_cached(plan: _build.Plan, announce: Callable[[str], None]) -> Path:
    """Return the planned object from the cache, building it if need be; of many processes one builds.

    Args:
        plan: what to build.
        announce: called with a line to show when the caller will have to wait.

    Raises:
        maskrcnn.native.build.BuildError: the compiler failed or the cache cannot be written.
    """
    folder = cache_dir() / plan.info.source_key
    library = folder / f"{plan.kind}-{plan.key}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{plan.kind}.lock", announce):
            if _build.read_stamp(library) is None:
                what = "RoI operators" if plan.kind == "cpu" else "RoI operators for CUDA"
                announce(f"compiling the {what} (once, about {TYPICAL_SECONDS[plan.kind]} s)")
                _build.build(plan, library)
    except OSError as error:
        raise _build.BuildError(
            f"the cache {folder} cannot be written ({error}); set MASKRCNN_CACHE"
        ) from error
    return library


@contextlib.contextmanager
def _lock(path: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock on a file; where the file system has no locks, go on without."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce("waiting for another process that compiles the RoI operators")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # e.g. ENOLCK on a network file system; build() replaces files in one step anyway
            pass
        yield
