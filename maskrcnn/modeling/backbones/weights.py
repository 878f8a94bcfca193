"""ImageNet classification weights into a backbone: all of them, or an error."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.state_dict import mismatch, read_state_dict


def load_imagenet_weights(module: nn.Module, path: Path, skip: tuple[str, ...]) -> None:
    """Copy a torchvision classifier's weights into ``module``, a part of that classifier.

    Args:
        skip: beginnings of the names in the file that belong to other parts, such as ``fc.``

    Raises:
        CheckpointError: the file cannot be read, or anything else in it is missing, left over, or of
            another shape; the module is then unchanged.
    """
    source = {name: value for name, value in read_state_dict(path).items() if not name.startswith(skip)}
    problem = mismatch(module.state_dict(), source)
    if problem:
        raise CheckpointError(
            f"{path}: these weights do not fit the backbone: {problem}."
            " Check backbone.type, depth, norm, width and groups against the file"
        )
    module.load_state_dict(source, strict=False)
