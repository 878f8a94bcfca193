"""The RPN's sliding network (Ren et al. 2015, section 3.1), shared by the levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class RPNHead(nn.Module):
    """A 3x3 convolution with ReLU, then two 1x1 convolutions: objectness and deltas.

    Args:
        channels: channels of every level.
        anchors: A, anchors a cell.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, anchors * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)  # Ren et al. 2015, section 3.1.3
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """One [N, C, Hl, Wl] a level -> logits [N, Hl * Wl * A] and deltas [N, Hl * Wl * A, 4] a level.

        The order within a level is that of :func:`maskrcnn.modeling.rpn.anchors.grid_anchors`.  In
        channels_last memory the reordering is a view.
        """
        logits, deltas = [], []
        for feature in features:
            hidden = F.relu_(self.conv(feature))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(feature.shape[0], -1, 4))
        return logits, deltas
