"""Reading state dicts from files, and saying how two of them differ."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.errors import CheckpointError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a PyTorch checkpoint file, on the CPU; nothing in the file is executed.

    A mapping of names to tensors, or one under "state_dict" or "model"; a leading "module." is dropped.

    Raises:
        CheckpointError: the file is missing, unreadable, or holds something else.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give the path of a downloaded checkpoint") from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(n, str) and isinstance(v, Tensor) for n, v in content.items())
    ):
        raise CheckpointError(f"{path}: holds no mapping of names to tensors (a state dict)")
    return {name.removeprefix("module."): value for name, value in content.items()}


def mismatch(own: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> str:
    """How ``source`` fails to fit ``own``, in words; empty where it fits.

    The ``num_batches_tracked`` counters of batch normalisation may be there or not.
    """
    missing = [n for n in own if n not in source and not n.endswith("num_batches_tracked")]
    extra = [n for n in source if n not in own and not n.endswith("num_batches_tracked")]
    shapes = [
        f"{n} {list(source[n].shape)} for {list(own[n].shape)}"
        for n in own
        if n in source and source[n].shape != own[n].shape
    ]
    kinds = (("missing", missing), ("without a place", extra), ("of another shape", shapes))
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in kinds
        if names
    )
