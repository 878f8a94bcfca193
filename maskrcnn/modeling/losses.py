"""Loss terms shared by the RPN and the RoI heads.  Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Elementwise ``0.5 d^2 / beta`` where ``|d| < beta``, else ``|d| - 0.5 beta``; beta 0 is L1.

    Girshick 2015, Fast R-CNN, eq. 3, with the width of its quadratic part made explicit.
    """
    distance = (prediction - target).abs()
    if beta < 1e-5:  # d^2 / beta would be inf or NaN; the limit is L1
        return distance
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
