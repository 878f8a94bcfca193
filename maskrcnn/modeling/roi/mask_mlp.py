"""The fully connected mask head that He et al. 2017 compare the convolutional one with (table 2e)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Cells, Width
from maskrcnn.modeling.interfaces import MASK_HEADS
from maskrcnn.modeling.onednn import Linear
from maskrcnn.modeling.roi.box_head import xavier
from maskrcnn.modeling.roi.mask_head import MaskLoss, PixelMaskHead


class MLPMaskHead(PixelMaskHead):
    """Fully connected layers with ReLU, then one that gives every pixel of every mask.

    Args:
        channels: of the pooled features.  num_classes: K.
        fcs and the rest: see :class:`MLPMaskHeadConfig`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        fcs: int = 2,
        hidden: int = 1024,
        pool_size: int = 14,
        mask_size: int = 28,
        loss: MaskLoss = "sigmoid",
        class_agnostic: bool = False,
    ) -> None:
        super().__init__(num_classes, loss, class_agnostic)
        self.pool_size = pool_size
        self.mask_size = mask_size
        layers = [Linear(hidden if i else channels * pool_size**2, hidden) for i in range(fcs)]
        xavier(layers)
        self.fcs = nn.ModuleList(layers)
        self.logits = Linear(hidden, self.out_channels * mask_size**2)
        nn.init.normal_(self.logits.weight, std=0.001)  # as in the convolutional head
        nn.init.zeros_(self.logits.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> logits [R, K or 1, M, M]."""
        x = pooled
        for i, layer in enumerate(self.fcs):
            assert isinstance(layer, Linear)
            x = F.relu_(layer(x) if i else layer.of_maps(x))
        logits: Tensor = self.logits(x)
        return logits.view(-1, self.out_channels, self.mask_size, self.mask_size)


@MASK_HEADS.register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLPMaskHeadConfig(Config):
    """The fully connected head of He et al. 2017, table 2e: 1024-1024-80x28x28, or one layer more.

    The table lists the widths that the layers give (as its "256-256-256-256-256-80" lists the four
    convolutions, the deconvolution and the output of the FCN); what enters is not said, and is here what
    enters the FCN, so that the heads alone differ: 14x14 RoI features.
    """

    #: Hidden layers (He et al. 2017, table 2e: 2 and 3).
    fcs: Annotated[int, Range(1, 1000, "no memory holds so many layers")] = 2
    #: Their width (ibid.: 1024).
    hidden: Width = 1024
    #: Side of the pooled features (14, that of the FCN).
    pool_size: Cells = 14
    #: Side of the masks (He et al. 2017, table 2e: 28).
    mask_size: Cells = 28
    #: sigmoid = a mask a class, which do not compete; softmax = one label a pixel (He et al. 2017, table 2b).
    loss: MaskLoss = "sigmoid"
    #: One mask for all classes instead of one a class (He et al. 2017, section 4.2).
    class_agnostic: bool = False

    def build(self, channels: int, num_classes: int) -> MLPMaskHead:
        """See :class:`MLPMaskHead`."""
        return MLPMaskHead(channels, num_classes, **self.arguments())
