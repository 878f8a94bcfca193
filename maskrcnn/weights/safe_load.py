"""Reading files of torch.save without running what is in them."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from maskrcnn.errors import CheckpointError


def safe_load(path: Path) -> Any:
    """What torch.save wrote: tensors and plain containers, on the CPU; nothing else is admitted.

    A file called ``.safetensors`` holds tensors by name (optional: ``pip install safetensors``).

    Raises:
        CheckpointError: the file is missing, damaged, or holds Python objects, which could run code.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a checkpoint file in it")
    check_is_file(path)
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if zipfile.is_zipfile(path):  # torch does not compare the sums that it writes
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise ValueError(f"wrong checksum of {bad}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise CheckpointError(f"{path}: needs the safetensors library: pip install safetensors") from None
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint file") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        inside = f" ({found.group(1)})" if found else ""
        raise CheckpointError(
            f"{path}: not a readable checkpoint; it is damaged, or holds Python objects{inside} and not plain"
            " tensors alone, and those are never loaded since they could run code. If you trust it, save its"
            " state dict alone where it was made"
        ) from None
    except Exception as error:  # a flipped bit ends in nearly any of them: BadZipFile, struct.error, ...
        raise CheckpointError(
            f"{path}: damaged or cut short, or no checkpoint at all ({first_line(error)})"
        ) from None


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file  # optional

    return load_file(path)


def check_is_file(path: Path) -> None:
    """
    Raises:
        CheckpointError: ``path`` is there and no file: a named pipe would be waited for without end.
    """
    if path.exists() and not path.is_file():
        kind = "a named pipe" if path.is_fifo() else "a device or a socket"
        raise CheckpointError(
            f"{path}: is {kind}; name a checkpoint file, or copy what comes from there to one"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; its type's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
