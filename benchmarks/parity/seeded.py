"""Weights, images and ground truth that a name and a seed decide, the same on every machine.

Detectron2 and our model are both given them, and so is the test that compares ours with Detectron2's stored
outputs, where Detectron2 is not installed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from maskrcnn.structures import InstanceMasks, Targets

#: Parts of Detectron2's names, and factors of their weights: scores and boxes should spread.
_FACTORS = (
    ("stem.conv1", 1 / 60),  # pixels reach it undivided, and logits of hundreds would hide the small ones
    ("objectness_logits", 1.5),
    ("anchor_deltas", 0.3),
    ("cls_score", 1.5),
    ("bbox_pred", 0.1),
    ("mask_head.predictor", 3.0),
    ("score_lowres", 3.0),
)


def weights(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Tensor]:
    """float64 tensors of these names (Detectron2's) and shapes; frozen means are 0, as in MSRA's networks."""
    state = {}
    for name, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))
        if name.endswith("running_mean"):
            value = np.zeros(shape)
        elif name.endswith("running_var"):
            value = random.uniform(0.5, 1.5, shape)
        elif name.endswith("norm.weight"):  # residual branches add up over a stage
            value = random.uniform(0.5, 1.0, shape) * (0.3 if "conv3" in name else 1.0)
        elif name.endswith("bias"):
            value = 0.1 * random.standard_normal(shape)
        else:
            factor = next((f for part, f in _FACTORS if part in name), 1.0)
            value = random.standard_normal(shape) * factor * np.sqrt(2 / np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(value, dtype=np.float64))
    return state


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """float64 [3, height, width], R, G, B in 0..255: smooth noise."""
    random = np.random.RandomState(seed)
    coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, height // 8 + 1, width // 8 + 1)))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].round()


def truth(height: int, width: int, classes: int, seed: int = 0, count: int = 5) -> Targets:
    """Rectangles with corners at whole pixels, and octagons inside them as masks."""
    random = np.random.RandomState(seed)
    low = (random.uniform(0, 0.5, (count, 2)) * (width, height)).round()
    side = (24 + random.uniform(0, 0.3, (count, 2)) * (width, height)).round()
    boxes = np.concatenate((low, np.minimum(low + side, (width, height))), 1)
    polygons = []
    for x1, y1, x2, y2 in boxes.tolist():
        w, h = (x2 - x1) / 4, (y2 - y1) / 4
        corners = [(x1 + w, y1), (x2 - w, y1), (x2, y1 + h), (x2, y2 - h)]
        corners += [(x2 - w, y2), (x1 + w, y2), (x1, y2 - h), (x1, y1 + h)]
        polygons.append([[v for corner in corners for v in corner]])
    labels = torch.from_numpy(random.randint(0, classes, count).astype(np.int64))
    masks = InstanceMasks.from_coco(polygons, height, width)
    return Targets(torch.from_numpy(boxes.astype(np.float32)), labels, masks, torch.arange(count))


def first(labels: Tensor, count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """A sampler without chance: the first positives (> 0) and the first negatives (0)."""
    positive, negative = (labels > 0).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
    positive = positive[: int(count * fraction)]
    return positive, negative[: count - len(positive)]
