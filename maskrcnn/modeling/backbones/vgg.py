"""VGG16 (Simonyan & Zisserman 2014, table 1, column D), the backbone of Fast and Faster R-CNN.

Parameter names are torchvision's (``features.0`` ... ``features.28``), so its ImageNet checkpoint loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Width
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.interfaces import BACKBONES, Backbone
from maskrcnn.modeling.norms import start_convs
from maskrcnn.weights.state_dict import load_imagenet_weights, mismatch, read_state_dict

VGGLevel = Literal["c4", "c5"]

#: (convolutions, channels / width) of every stage; a 2x2 maximum follows each.
STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class VGG16(Backbone):
    """The thirteen convolutions; no normalisation.

    Args:
        width and the rest: see :class:`VGG16Config`.
    """

    def __init__(
        self, *, width: int = 64, outputs: tuple[VGGLevel, ...] = ("c4",), freeze_at: int = 2
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, (convs, factor) in enumerate(STAGES, start=1):
            for _ in range(convs):
                conv = nn.Conv2d(channels, factor * width, 3, padding=1)
                start_convs(conv)
                conv.requires_grad_(stage > freeze_at)
                layers += [conv, nn.ReLU(inplace=True)]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.last_pool = layers[-1]
        self.outputs = tuple(outputs)
        strides: dict[VGGLevel, int] = {"c4": 16, "c5": 32}
        self.strides = {name: stride for name, stride in strides.items() if name in outputs}
        self.channels = dict.fromkeys(self.strides, channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] -> the levels in ``outputs``; a remainder of H or W by the stride is cut off."""
        c4 = self.features(x)
        return {name: c4 if name == "c4" else self.last_pool(c4) for name in self.strides}


@BACKBONES.register("vgg16")
@dataclass(frozen=True, kw_only=True)
class VGG16Config(Config):
    """VGG16; see :class:`VGG16`."""

    #: ImageNet weights: by name (torchvision/vgg16), or torchvision's checkpoint file (its ``classifier`` is
    #: left out).
    weights: Path | None = None
    #: Stages that are not trained, 0 to 5 (Girshick 2015, section 4.5: conv3_1 and up are trained, so 2).
    freeze_at: Annotated[int, Range(0, 5)] = 2
    #: Channels of the first stage; 64 is the published network, smaller ones are for tests.
    width: Width = 64
    #: c4 = conv5_3 at stride 16, without the fifth pooling (Girshick 2015, section 2.2); c5 = after it.
    outputs: tuple[VGGLevel, ...] = ("c4",)

    def build(self) -> VGG16:
        """
        Raises:
            ConfigError: ``outputs`` is empty.
            CheckpointError: ``weights`` cannot be read or does not fit.
        """
        if not self.outputs:
            raise ConfigError("model.backbone.outputs is empty; name c4, c5 or both")
        model = VGG16(**self.arguments("weights"))
        if self.weights is not None:
            load_imagenet_weights(model, self.weights, ("classifier.",))
        return model


def load_vgg_classifier(fc1: nn.Linear, fc2: nn.Linear, path: Path) -> None:
    """Copy fc6 and fc7 of a torchvision vgg16 checkpoint into the two layers of a box head.

    Args:
        fc1: reads [R, 512 * 7 * 7], channels before rows before columns; gives 4096.
        fc2: 4096 to 4096.

    Raises:
        CheckpointError: the file cannot be read, has no such layers, or they are of another shape; the
            layers are then unchanged.
    """
    source = read_state_dict(path)
    parts = {
        f"{name}.{kind}": source[f"classifier.{index}.{kind}"]
        for name, index in (("fc1", 0), ("fc2", 3))
        for kind in ("weight", "bias")
        if f"classifier.{index}.{kind}" in source
    }
    both = nn.ModuleDict({"fc1": fc1, "fc2": fc2})
    problem = mismatch(both.state_dict(), parts)
    if problem:
        raise CheckpointError(
            f"{path}: classifier.0 and classifier.3 do not fit the box head: {problem}."
            " Give torchvision's vgg16 file, and pool_size 7 and hidden 4096"
        )
    both.load_state_dict(parts)
