"""ImageNet classification weights into a backbone: all of them, or an error."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.errors import CheckpointError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a PyTorch checkpoint file, on the CPU.

    A mapping of names to tensors, or one under "state_dict" or "model"; a leading "module." is dropped.

    Raises:
        CheckpointError: the file is missing, unreadable, or holds something else.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give the path of a downloaded checkpoint") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({reason})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f"{path}: holds no mapping of names to tensors (a state dict)")
    return {name.removeprefix("module."): value for name, value in content.items()}


def load_imagenet_weights(backbone: nn.Module, path: Path) -> None:
    """Copy a torchvision classifier's weights into ``backbone``.

    The classifier's ``fc`` is left out, and so are whole stages that the backbone does not have.

    Raises:
        CheckpointError: anything else is missing, left over, or of another shape.
    """
    source = read_state_dict(path)
    own = backbone.state_dict()
    stages = {name.split(".")[0] for name in own}
    source = {
        name: value
        for name, value in source.items()
        if not name.startswith("fc.") and (name.split(".")[0] in stages or not name.startswith("layer"))
    }
    missing = [n for n in own if n not in source and not n.endswith("num_batches_tracked")]
    extra = [n for n in source if n not in own and not n.endswith("num_batches_tracked")]
    shapes = [
        f"{n} {list(source[n].shape)} for {list(own[n].shape)}"
        for n in own
        if n in source and source[n].shape != own[n].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing from the file", missing),
            ("of the file without a place", extra),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path}: these weights do not fit the backbone: {'; '.join(problems)}."
            " Check backbone.depth, norm and width against the file"
        )
    backbone.load_state_dict(source, strict=False)
