"""Boxes as deltas against reference boxes (Girshick 2014, R-CNN, appendix C, eq. 1-4 and 6-9).

Legend: M = boxes, T = classes a box has deltas for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskrcnn.config.ranges import Positive
from maskrcnn.structures.boxes import numbers

# exp() of a wild delta must stay finite: a box grows at most from 16 to 1000 pixels (Detectron's constant).
SCALE_CLAMP = math.log(1000.0 / 16)

Weights = tuple[Positive, Positive, Positive, Positive]


def encode_boxes(boxes: Tensor, reference: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas (dx, dy, dw, dh) that move ``reference`` onto ``boxes``, times ``weights``.

    Args:
        boxes: [M, 4] xyxy, pixels, sides > 0.
        reference: [M, 4] xyxy, pixels, sides > 0.
        weights: factors of the four deltas (all 1 in the RPN; 10, 10, 5, 5 in the box head).

    Returns:
        [M, 4].
    """
    size = reference[:, 2:] - reference[:, :2]
    center = reference[:, :2] + 0.5 * size
    target_size = boxes[:, 2:] - boxes[:, :2]
    target_center = boxes[:, :2] + 0.5 * target_size
    shift = (target_center - center) / size
    return torch.cat((shift, torch.log(target_size / size)), dim=1) * numbers(weights, boxes)


def decode_boxes(deltas: Tensor, reference: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The boxes that ``deltas`` make of ``reference``; the inverse of :func:`encode_boxes`.

    Args:
        deltas: [M, 4] or [M, T, 4]; any float type.
        reference: [M, 4] xyxy, pixels.
        weights: as in :func:`encode_boxes`.

    Returns:
        [M, 4] or [M, T, 4], xyxy in pixels, not clipped; float32, or float64 where either input is.
    """
    wide = torch.float64 if torch.float64 in (deltas.dtype, reference.dtype) else torch.float32
    deltas, reference = deltas.to(wide), reference.to(wide)
    if deltas.dim() == 3:
        reference = reference[:, None]
    size = reference[..., 2:] - reference[..., :2]
    center = reference[..., :2] + 0.5 * size
    deltas = deltas / numbers(weights, deltas)
    new_center = deltas[..., :2] * size + center
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=SCALE_CLAMP)) * size
    return torch.cat((new_center - half, new_center + half), dim=-1)
