"""From boxes to pooled features: choose each box's level, then one call of the RoI op."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from maskrcnn.structures import box_area

LevelRule = Literal["detectron2", "torchvision"]

# Lin et al. 2017, eq. 1: a box of ImageNet's 224 x 224 pixels belongs on level 4.
CANONICAL_SIZE = 224
CANONICAL_LEVEL = 4


def fpn_levels(boxes: Tensor, lowest: int, highest: int, rule: LevelRule = "detectron2") -> Tensor:
    """The pyramid level of every box: ``floor(4 + log2(sqrt(area) / 224))``, cut to the levels there are.

    The two rules differ in where a small number steadies the floor at exact powers of 2: Detectron2 has
    1e-8 inside the logarithm (so that an empty box has one, too), torchvision 1e-6 outside.

    Args:
        boxes: [R, 4] xyxy, pixels.
        lowest, highest: log2 of the finest and the coarsest stride.

    Returns:
        int64 [R], counted from 0 = ``lowest``.
    """
    ratio = box_area(boxes).sqrt() / CANONICAL_SIZE
    if rule == "detectron2":
        level = torch.floor(CANONICAL_LEVEL + torch.log2(ratio + 1e-8))
    else:
        level = torch.floor(CANONICAL_LEVEL + torch.log2(ratio) + 1e-6)
    return level.clamp(min=lowest, max=highest).to(torch.int64) - lowest


def to_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes [Ri, 4] of every image -> [R, 5], the image's index in front."""
    index = torch.repeat_interleave(
        torch.arange(len(boxes), device=boxes[0].device),
        torch.tensor([len(b) for b in boxes]).to(boxes[0].device),
        output_size=sum(len(b) for b in boxes),
    )
    return torch.cat((index[:, None].to(boxes[0].dtype), torch.cat(list(boxes))), dim=1)


class Pooler(nn.Module):
    """Pools boxes from the pyramid levels they belong to.

    Args:
        op: a :class:`maskrcnn.layers.RoIOperator`, or a module called as one, of a fixed output size.
        levels: names of the feature levels, finest first.
        strides: pixels a cell of the levels, by name.
        rule: see :func:`fpn_levels`.
    """

    def __init__(
        self,
        op: Callable[..., Tensor],
        levels: Sequence[str],
        strides: Mapping[str, int],
        rule: LevelRule = "detectron2",
    ) -> None:
        super().__init__()
        self.op = op
        self.levels = list(levels)
        self.scales = [1.0 / strides[level] for level in levels]
        self.lowest = int(math.log2(strides[self.levels[0]]))
        self.highest = int(math.log2(strides[self.levels[-1]]))
        self.rule = rule

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor | Sequence[Tensor]) -> Tensor:
        """
        Args:
            features: by level name, [N, C, Hl, Wl].
            boxes: [R, 5], the image's index and xyxy in pixels of the network frame; or [Ri, 4] an image.

        Returns:
            [R, C, s, s], in the order of the RoIs.
        """
        rois = boxes if isinstance(boxes, Tensor) else to_rois(boxes)
        levels = fpn_levels(rois[:, 1:], self.lowest, self.highest, self.rule)
        return self.op([features[level] for level in self.levels], rois, levels, self.scales)

    def extra_repr(self) -> str:
        """The op, as torch prints a module."""
        return "" if isinstance(self.op, nn.Module) else repr(self.op)
