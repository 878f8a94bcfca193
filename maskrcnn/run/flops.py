"""Parameters and multiply-adds of a model, counted without weights or data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig, without_weights

#: (height, width) of the published comparisons of backbones for Mask R-CNN (mmdetection's ``get_flops``).
SIZE = (800, 1280)


@dataclass(frozen=True)
class Cost:
    """What a model is made of and what one image costs.

    parameters: scalars that are trained or frozen, without buffers such as running means.
    flops: multiply-adds of convolutions and matrix products in evaluation.  (One multiply-add is one FLOP,
        as in the papers, Detectron2 and mmdetection; PyTorch's own counter says twice that.)
    """

    parameters: int
    flops: int


@cache  # schedules share their model
def count_cost(
    config: MaskRCNNConfig,
    num_classes: int,
    size: tuple[int, int] = SIZE,
    proposals: int = 1000,
    detections: int = 100,
) -> Cost:
    """The cost of one image of ``size`` (height, width), pixels, with as many proposals and detections.

    Nothing is computed: the model lives on the meta device, and weight files are not read.
    """
    with torch.device("meta"), torch.no_grad():
        model = without_weights(config).build(num_classes).eval()
        with FlopCounterMode(display=False) as counter:
            run_parts(model, config.preprocess.size_divisor, size, proposals, detections)
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def run_parts(model: MaskRCNN, divisor: int, size: tuple[int, int], proposals: int, detections: int) -> None:
    """All that depends on the image alone, and the heads on as many RoIs; pooling has no weights."""
    height, width = (-(-side // divisor) * divisor for side in size)
    features = model.features(torch.empty(1, len(model.preprocess.mean), height, width))
    if model.rpn is not None:
        model.rpn.head([features[level] for level in model.rpn.levels])
    roi = model.roi
    channels = features[roi.box_pooler.levels[0]].shape[1]

    def pooled(count: int, side: int) -> Tensor:
        if roi.trunk is None:
            return torch.empty(count, channels, side, side)
        out: Tensor = roi.trunk(torch.empty(count, channels, roi.trunk.pool_size, roi.trunk.pool_size))
        return out

    for box_head, _ in roi.box_stages:
        box_head(pooled(proposals, box_head.pool_size))
    for head in roi.heads.values():
        head(pooled(detections, head.pool_size))
