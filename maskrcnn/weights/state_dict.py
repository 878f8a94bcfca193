"""Reading state dicts from files, and saying how two of them differ."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from maskrcnn.errors import CheckpointError, few
from maskrcnn.weights.safe_load import safe_load
from maskrcnn.weights.unpickle import load_pickle


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a checkpoint file, on the CPU; see :func:`read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name in a checkpoint file, on the CPU, and what else it says; nothing in it is executed.

    A mapping of names to tensors, or one under "state_dict", "model" or "blobs"; a leading "module." is
    dropped.  A file called ``.pkl`` may hold numpy arrays (Detectron2, Caffe2).

    Raises:
        CheckpointError: the file is missing, unreadable, or holds something else.
    """
    pickled = path.suffix == ".pkl" and not zipfile.is_zipfile(path)
    content: Any = load_pickle(path) if pickled else safe_load(path)
    meta: dict[str, Any] = {}
    for key in ("state_dict", "model", "blobs"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            meta |= {str(k): v for k, v in content.items() if k != key}
            content = content[key]
    if pickled and isinstance(content, Mapping):  # Caffe2 leaves the optimizer's state and numbers there
        content = {
            n: v for n, v in content.items() if isinstance(v, Tensor) and not str(n).endswith("_momentum")
        }
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(n, str) and isinstance(v, Tensor) for n, v in content.items())
    ):
        raise CheckpointError(f"{path}: holds no mapping of names to tensors (a state dict)")
    return {name.removeprefix("module."): value for name, value in content.items()}, meta


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
    return "; ".join(f"{len(names)} {what} ({few(names, 3)})" for what, names in kinds if names)


def read_backbone(path: Path) -> dict[str, Tensor]:
    """:func:`read_state_dict`, of a whole detector of ours the backbone alone."""
    source = read_state_dict(path)
    inner = {n.removeprefix("backbone."): v for n, v in source.items() if n.startswith("backbone.")}
    return inner if any(n.startswith("roi.") for n in source) else source


def load_imagenet_weights(module: nn.Module, path: Path, skip: tuple[str, ...]) -> None:
    """Copy a torchvision classifier's weights into ``module``, a part of that classifier.

    Args:
        skip: beginnings of the names in the file that belong to other parts, such as ``fc.``

    Raises:
        CheckpointError: the file cannot be read, or anything else in it is missing, left over, or of
            another shape; the module is then unchanged.
    """
    source = {name: value for name, value in read_backbone(path).items() if not name.startswith(skip)}
    problem = mismatch(module.state_dict(), source)
    if problem:
        raise CheckpointError(
            f"{path}: these weights do not fit the backbone: {problem}."
            " Check backbone.type, depth, norm, width and groups against the file"
        )
    module.load_state_dict(source, strict=False)
