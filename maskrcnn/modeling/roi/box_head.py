"""Box heads: what a RoI shows, and where exactly (Girshick 2015, Fast R-CNN, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.registries import BOX_HEADS, BoxHead


class BoxPredictor(nn.Module):
    """The two output layers: K + 1 logits (background last) and deltas a class, or one set for all.

    Args:
        channels: width of the features.  num_classes: K.
        class_agnostic: [R, 4] deltas in place of [R, 4K].
    """

    def __init__(self, channels: int, num_classes: int, *, class_agnostic: bool = False) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, num_classes + 1)
        self.deltas = nn.Linear(channels, 4 if class_agnostic else 4 * num_classes)
        # Girshick 2015, section 2.3: standard deviations 0.01 and 0.001, biases 0.
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[R, channels] -> logits [R, K + 1], deltas [R, 4K] or [R, 4]."""
        return self.logits(x), self.deltas(x)


class TwoFCBoxHead(BoxHead):
    """Two fully connected layers with ReLU (Lin et al. 2017, section 4.2), then the predictor."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        hidden: int = 1024,
        pool_size: int = 7,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.fc1 = nn.Linear(channels * pool_size**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)  # Caffe2's "Xavier", as Detectron
            nn.init.zeros_(layer.bias)
        self.predictor = BoxPredictor(hidden, num_classes, class_agnostic=class_agnostic)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu_(self.fc1(pooled.flatten(1)))
        x = F.relu_(self.fc2(x))
        out: tuple[Tensor, Tensor] = self.predictor(x)
        return out


@BOX_HEADS.register("two_fc")
@dataclass(frozen=True, kw_only=True)
class TwoFCBoxHeadConfig:
    """Two fully connected layers; the head of the FPN models."""

    #: Width of both layers (Lin et al. 2017, section 4.2: 1024).
    hidden: int = 1024
    #: Side of the pooled features (ibid.: 7).
    pool_size: int = 7
    #: One set of box deltas for all classes instead of one a class.
    class_agnostic: bool = False

    def build(self, channels: int, num_classes: int) -> TwoFCBoxHead:
        """
        Raises:
            ConfigError: a size is below 1.
        """
        if min(self.hidden, self.pool_size) < 1:
            raise ConfigError("model.box_head: hidden and pool_size must be at least 1")
        return TwoFCBoxHead(
            channels,
            num_classes,
            hidden=self.hidden,
            pool_size=self.pool_size,
            class_agnostic=self.class_agnostic,
        )
