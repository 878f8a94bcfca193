"""The RPN's sliding network (Ren et al. 2015, section 3.1), shared by the levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class RPNHead(nn.Module):
    """3x3 convolutions with ReLU, then two 1x1 convolutions: objectness and deltas.

    The first 3x3 convolution is ``conv``, further ones are ``more.0``, ``more.1`` ...

    Args:
        channels: channels of every level.
        anchors: A, anchors a cell.
        convs: 3x3 convolutions (Ren et al. 2015: 1; Li et al. 2021, "Benchmarking Detection Transfer
            Learning with Vision Transformers", and so torchvision's v2 models: 2).
        width: channels of the 3x3 convolutions; None = ``channels``.
    """

    def __init__(self, channels: int, anchors: int, *, convs: int = 1, width: int | None = None) -> None:
        super().__init__()
        width = channels if width is None else width
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.more = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(convs - 1))
        self.objectness = nn.Conv2d(width, anchors, 1)
        self.deltas = nn.Conv2d(width, anchors * 4, 1)
        for layer in (self.conv, *self.more, self.objectness, self.deltas):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)  # Ren et al. 2015, section 3.1.3
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """One [N, C, Hl, Wl] a level -> logits [N, Hl * Wl * A] and deltas [N, Hl * Wl * A, 4] a level.

        The order within a level is that of :func:`maskrcnn.modeling.rpn.anchors.grid_anchors`.  In
        channels_last memory the reordering is a view.
        """
        logits, deltas = [], []
        for feature in features:
            hidden = F.relu_(self.conv(feature))
            for conv in self.more:
                hidden = F.relu_(conv(hidden))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(feature.shape[0], -1, 4))
        return logits, deltas
