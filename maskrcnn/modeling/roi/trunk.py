"""The fifth stage of a ResNet on pooled RoIs: the C4 models (He et al. 2017, figure 4 left)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from maskrcnn.config import Config
from maskrcnn.errors import ConfigError, plural
from maskrcnn.modeling.backbones.blocks import initialise, make_stage, stage_channels
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.interfaces import ROI_TRUNKS, BackboneConfig, RoITrunk
from maskrcnn.weights.state_dict import load_imagenet_weights

C4 = Literal["paper", "detectron2"]


class Res5Trunk(RoITrunk):
    """``layer4`` of a ResNet, from RoI features to 7 x 7.

    Args:
        layer4: the stage, of ``channels``, that makes 7 x 7 of 7 x 7 or 14 x 14 cells by its ``stride``.
        frozen: do not train it, and keep its statistics.
    """

    def __init__(self, layer4: nn.Sequential, channels: int, stride: int, *, frozen: bool = False) -> None:
        super().__init__()
        self.pool_size, self.output_size = 7 * stride, 7
        self.channels = channels
        self.frozen = frozen
        self.layer4 = layer4
        self.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Res5Trunk:
        """As ``nn.Module.train``, but a frozen trunk keeps its statistics too."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, pooled: Tensor) -> Tensor:
        """[R, C, pool_size, pool_size] -> [R, channels, 7, 7]."""
        out: Tensor = self.layer4(pooled)
        return out


@ROI_TRUNKS.register("res5")
@dataclass(frozen=True, kw_only=True)
class Res5TrunkConfig(Config):
    """The fifth stage of the model's ResNet; see :class:`Res5Trunk`."""

    #: paper = RoIs of 7 x 7, stride 1 (He et al. 2017, figure 4); detectron2 = RoIs of 14 x 14, stride 2.
    c4: C4 = "detectron2"

    def build(self, backbone: BackboneConfig, channels: int) -> Res5Trunk:
        """The stage after c4, with the backbone's norm, weights and ``freeze_at`` (5 freezes it).

        Raises:
            ConfigError: ``backbone`` is no ResNet that ends in c4, or RoIs are not pooled from c4.
            CheckpointError: the backbone's ``weights`` cannot be read or do not fit.
        """
        if not isinstance(backbone, ResNetConfig):
            raise ConfigError(
                "model.roi_trunk res5 is the last stage of a ResNet; set model.backbone.type to resnet,"
                " or model.roi_trunk to null"
            )
        if "c5" in backbone.outputs:
            raise ConfigError(
                "model.roi_trunk res5 takes c5's place, but the backbone builds c5 too; set"
                " model.backbone.outputs to [c4]"
            )
        wanted = stage_channels(backbone.depth, 2, backbone.width)
        if channels != wanted:
            raise ConfigError(
                f"model.roi_trunk res5 reads the backbone's c4 with {plural(wanted, 'channel')}, but RoIs"
                f" are pooled from {channels}; set model.neck to null and model.roi.levels to [c4]"
            )
        others = ("weights", "outputs", "freeze_at", "dilated_c5", "zero_init_residual")
        stride = 1 if self.c4 == "paper" else 2
        stage = make_stage(index=3, stride=stride, **backbone.arguments(*others))
        initialise(stage, backbone.zero_init_residual)
        channels = stage_channels(backbone.depth, 3, backbone.width)
        trunk = Res5Trunk(stage, channels, stride, frozen=backbone.freeze_at >= 5)
        if backbone.weights is not None:
            above = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "fc.")
            load_imagenet_weights(trunk, backbone.weights, above)
        return trunk
