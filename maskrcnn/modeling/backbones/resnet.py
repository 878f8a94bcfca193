"""ResNet-18/34/50/101/152 (He et al. 2015, "Deep Residual Learning", table 1), ResNeXt and Wide ResNet.

Parameter names are torchvision's (``conv1``, ``bn1``, ``layer1.0.conv1`` ...), so its ImageNet checkpoints
load without a table of names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Width
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.backbones.blocks import initialise, make_stage, stage_channels
from maskrcnn.modeling.interfaces import BACKBONES, Backbone
from maskrcnn.modeling.norms import NormName, conv_norm, make_norm
from maskrcnn.weights.state_dict import load_imagenet_weights

Depth = Literal[18, 34, 50, 101, 152]
Level = Literal["c2", "c3", "c4", "c5"]

LEVELS: tuple[Level, ...] = ("c2", "c3", "c4", "c5")


class ResNet(Backbone):
    """The convolutional part of a ResNet; outputs c2..c5 at strides 4, 8, 16, 32.

    Args:
        depth and the rest: see :class:`ResNetConfig`.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        norm: NormName = "frozen_bn",
        width: int = 64,
        groups: int = 1,
        width_per_group: int = 64,
        outputs: tuple[Level, ...] = LEVELS,
        freeze_at: int = 2,
        stride_in_1x1: bool = False,
        dilated_c5: bool = False,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.outputs = tuple(level for level in LEVELS if level in outputs)
        self.freeze_at = freeze_at
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width)
        self.stages = LEVELS[: LEVELS.index(self.outputs[-1]) + 1]
        self.channels, self.strides = {}, {}
        for i, level in enumerate(self.stages):
            dilated = dilated_c5 and level == "c5"
            stage = make_stage(
                depth,
                i,
                norm=norm,
                width=width,
                groups=groups,
                width_per_group=width_per_group,
                stride=1 if i == 0 or dilated else 2,
                dilation=2 if dilated else 1,
                stride_in_1x1=stride_in_1x1,
            )
            self.add_module(f"layer{i + 1}", stage)
            if level in self.outputs:
                self.channels[level] = stage_channels(depth, i, width)
                self.strides[level] = 16 if dilated else 4 * 2**i
        initialise(self, zero_init_residual)
        for module in self._frozen():
            module.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        stem: list[nn.Module] = [self.conv1, self.bn1] if self.freeze_at >= 1 else []
        stages = range(1, min(self.freeze_at - 1, len(self.stages)) + 1)
        return stem + [self.get_submodule(f"layer{i}") for i in stages]

    def train(self, mode: bool = True) -> ResNet:
        """As ``nn.Module.train``, but frozen stages keep their statistics too."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] -> the levels in ``outputs``."""
        x = conv_norm(self.conv1, self.bn1, x, relu=True)
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        features: dict[str, Tensor] = {}
        for i, level in enumerate(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
            if level in self.outputs:
                features[level] = x
        return features


@BACKBONES.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """A ResNet; see :class:`ResNet`.

    ResNeXt-50-32x4d is depth 50, groups 32, width_per_group 4; ResNeXt-101-32x8d is depth 101, groups 32,
    width_per_group 8; Wide-ResNet-50-2 is depth 50, width_per_group 128.
    """

    #: Layers: 18, 34, 50, 101 or 152.
    depth: Depth = 50
    #: Normalisation: frozen_bn (fine-tuning, the default of all peers), bn, sync_bn, gn (from scratch).
    norm: NormName = "frozen_bn"
    #: ImageNet weights: by name (torchvision/resnet50; `maskrcnn weights list`), or a torchvision checkpoint
    #: file of the same depth (its ``fc`` layer is left out).
    weights: Path | None = None
    #: 0 = train everything, 1 = freeze the stem, 2 = stem and c2 (Detectron2's default), ... 5 = all.
    freeze_at: Annotated[int, Range(0, 5)] = 2
    #: Stem channels; 64 is the published network, smaller ones are for tests.  The stages have 1, 2, 4, 8
    #: times as many (times 4 in bottlenecks).
    width: Width = 64
    #: Groups of the bottlenecks' 3x3 convolutions ("cardinality", Xie et al. 2017, table 1).
    groups: Width = 1
    #: Channels of each such group in c2 (ibid.), doubled from stage to stage; scaled by ``width / 64``, at
    #: least 1.
    width_per_group: Width = 64
    #: Levels to return; stages above the last of them are not built.
    outputs: tuple[Level, ...] = LEVELS
    #: Stride in the first 1x1 convolution of a bottleneck (original release) and not in its 3x3; depth >= 50.
    stride_in_1x1: bool = False
    #: DC5: c5 at stride 16 with 3x3 convolutions of dilation 2 (Dai et al. 2017, "Deformable ConvNets",
    #: section 4.1, as Detectron2's RES5_DILATION: the first block's too).
    dilated_c5: bool = False
    #: Start each residual block as the identity (Goyal et al. 2017, section 5.1); for training from scratch
    #: with bn, sync_bn or gn.
    zero_init_residual: bool = False

    def build(self) -> ResNet:
        """
        Raises:
            ConfigError: two keys contradict each other.
            CheckpointError: ``weights`` cannot be read or does not fit.
        """
        if not self.outputs:
            raise ConfigError("model.backbone.outputs is empty; name at least one of c2, c3, c4, c5")
        if self.depth < 50 and (self.groups, self.width_per_group, self.dilated_c5) != (1, 64, False):
            raise ConfigError(
                "model.backbone.groups, model.backbone.width_per_group and model.backbone.dilated_c5 belong"
                f" to bottleneck blocks; set model.backbone.depth to 50, 101 or 152 (it is {self.depth})"
            )
        if self.depth < 50 and self.stride_in_1x1:
            raise ConfigError(
                "model.backbone.stride_in_1x1 moves the stride of bottleneck blocks, which a ResNet of depth"
                f" {self.depth} has none of; leave it out, or set model.backbone.depth to 50, 101 or 152"
            )
        if self.dilated_c5 and "c5" not in self.outputs:
            raise ConfigError(
                "model.backbone.dilated_c5 changes c5, which model.backbone.outputs leaves out; add it there"
            )
        if self.zero_init_residual and self.norm == "frozen_bn":
            raise ConfigError(
                "model.backbone.zero_init_residual needs a norm that trains; with frozen_bn the blocks would"
                " stay the identity for ever. Set model.backbone.norm to bn, sync_bn or gn"
            )
        model = ResNet(**self.arguments("weights"))
        if self.weights is not None:
            absent = (f"layer{i}." for i in range(len(model.stages) + 1, 5))
            load_imagenet_weights(model, self.weights, ("fc.", *absent))
        return model
