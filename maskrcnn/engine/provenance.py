"""Where a run's figures come from: code, versions, machine, command."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import maskrcnn


def versions(transforms: Iterable[object] = ()) -> dict[str, str]:
    """Of maskrcnn, torch and Python, and of what ``transforms`` name as their ``library``, which decides what
    they draw.
    """
    used = sorted({name for t in transforms if (name := getattr(t, "library", None))})
    return {
        "maskrcnn": maskrcnn.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        **{name: version(name) for name in used},
    }


#: Parts of the package that decide no result: nothing imports the last two, viz is given all that it shows.
_NO_RESULT = ("viz", "studies", "cli")


def code_fingerprint() -> str:
    """Twelve hex digits over the Python and C++ sources that a run may use: equal for equal code."""
    package = Path(maskrcnn.__file__).parent
    digest = hashlib.sha256()
    for folder in (package, package.parent / "csrc"):
        for path in sorted(folder.rglob("*")):
            if folder == package and path.relative_to(folder).parts[0] in _NO_RESULT:
                continue
            if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh"):
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def describe_run(device: torch.device, world_size: int, transforms: Iterable[object] = ()) -> dict[str, Any]:
    """What goes into ``run.json`` beside the recipe's own facts.

    transforms: of the training images.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "versions": versions(transforms),
        "code": code_fingerprint(),
        "command": _command(),
        "device": str(device),
        "device_name": name or platform.machine(),
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }


def _command() -> str:
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "maskrcnn"] if name == "__main__.py" else [name]
    return shlex.join([*program, *sys.argv[1:]])
