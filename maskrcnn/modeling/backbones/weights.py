"""ImageNet classification weights into a backbone: all of them, or an error."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.state_dict import mismatch, read_state_dict


def load_imagenet_weights(backbone: nn.Module, path: Path) -> None:
    """Copy a torchvision classifier's weights into ``backbone``.

    The classifier's ``fc`` is left out, and so are whole stages that the backbone does not have.

    Raises:
        CheckpointError: the file cannot be read, or anything else in it is missing, left over, or of
            another shape; the backbone is then unchanged.
    """
    own = backbone.state_dict()
    stages = {name.split(".")[0] for name in own}
    source = {
        name: value
        for name, value in read_state_dict(path).items()
        if not name.startswith("fc.") and (name.split(".")[0] in stages or not name.startswith("layer"))
    }
    problem = mismatch(own, source)
    if problem:
        raise CheckpointError(
            f"{path}: these weights do not fit the backbone: {problem}."
            " Check backbone.depth, norm and width against the file"
        )
    backbone.load_state_dict(source, strict=False)
