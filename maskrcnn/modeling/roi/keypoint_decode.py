"""From the keypoint head's heat maps to places in the image.

Legend: R = RoIs, J = keypoints, M = side of the heat maps (56).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from maskrcnn.modeling.losses import wide

#: Numbers in the largest tensor of a pass of :func:`decode_keypoints`: what a core's cache holds, and what
#: keeps a GPU busy.
_NUMBERS_CPU, _NUMBERS_GPU = 2**18, 2**24
#: The a of cubic convolution (Keys 1981) that F.interpolate has.
CUBIC = -0.75

#: What a keypoint's score is, see :func:`decode_keypoints`.
Scores = Literal["logit", "probability"]


def decode_keypoints(logits: Tensor, boxes: Tensor, scores: Scores = "logit") -> Tensor:
    """The highest point of every heat map, enlarged (bicubic) to the RoI's size in whole pixels.

    The centre of the highest pixel is the place: the inverse of :func:`keypoint_cells` (Heckbert 1990,
    "What are the coordinates of a pixel?").

    Args:
        logits: [R, J, M, M].  boxes: [R, 4] xyxy; a side below 1 pixel counts as 1.
        scores: logit: the enlarged heat map's height there (torchvision); probability: its exponential over
            the sum of those of the M x M cells (Detectron2): the softmax of a cell of that height, whatever
            the RoI's size; above 1 only where the enlargement overshoots a single sharp cell.

    Returns:
        [R, J, 3]: x, y in the boxes' frame, and the score.
    """
    count, joints, side, _ = logits.shape
    maps = wide(logits).to(boxes.dtype)
    out = maps.new_zeros(count, joints, 3)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    whole = sides.ceil()
    # RoIs of similar size share a pass: each is enlarged on the largest canvas of its pass.
    order = whole.prod(1).argsort(stable=True)
    canvases = whole[order].long().cpu()
    most = _NUMBERS_CPU if maps.device.type == "cpu" else _NUMBERS_GPU
    start = 0
    while start < count:
        stop = start + 1
        while stop < count and _numbers(canvases[start : stop + 1], joints, side) <= most:
            stop += 1
        rows = order[start:stop]
        width, height = canvases[start:stop].amax(0).tolist()
        across = bicubic(side, whole[rows, 0], width)
        down = bicubic(side, whole[rows, 1], height)
        # Under autocast the products would be rounded to half precision.
        with torch.autocast(maps.device.type, enabled=False):
            heights = down[:, None] @ maps[rows] @ across[:, None].mT
        score, at = heights.flatten(2).max(2)
        place = torch.stack((at % width, at.div(width, rounding_mode="floor")), -1)
        place = (torch.minimum(place, whole[rows, None] - 1) + 0.5) * (sides / whole)[rows, None]
        out[rows] = torch.cat((place + boxes[rows, None, :2], score[..., None]), -1)
        start = stop
    if scores == "probability":
        out[..., 2] = (out[..., 2] - maps.flatten(2).logsumexp(2)).exp()
    return out


def _numbers(canvases: Tensor, joints: int, side: int) -> int:
    """How many numbers the largest tensor of a pass over RoIs of these sizes, [r, 2] pixels, holds."""
    width, height = canvases.amax(0).tolist()
    return int(len(canvases) * joints * height * max(width, side))


def bicubic(side: int, sizes: Tensor, canvas: int) -> Tensor:
    """Weights that enlarge M cells to ``sizes`` [R] pixels: [R, canvas, M]; past its size, the last pixel's.

    Cubic convolution with a = :data:`CUBIC`, pixel centres aligned, edges repeated: what
    ``F.interpolate(mode="bicubic", align_corners=False)`` computes.
    """
    pixels = torch.arange(canvas, device=sizes.device, dtype=sizes.dtype)
    pixels = torch.minimum(pixels, sizes[:, None] - 1)
    place = (pixels + 0.5) * (side / sizes)[:, None] - 0.5
    base = place.floor()
    t = place - base
    a = CUBIC
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (t + 1, 2 - t)]
    weights = torch.zeros(len(sizes), canvas, side, dtype=sizes.dtype, device=sizes.device)
    for offset, weight in zip((-1, 0, 1, 2), (far[0], near[0], near[1], far[1]), strict=True):
        cell = (base + offset).clamp(0, side - 1).long()
        weights.scatter_add_(2, cell[..., None], weight[..., None])
    return weights


@torch.library.custom_op("maskrcnn::decode_keypoints", mutates_args=())
def decode_traced(logits: Tensor, boxes: Tensor, probability: bool) -> Tensor:
    """:func:`decode_keypoints` as one operator of a traced graph: there RoIs' sizes change no shape."""
    return decode_keypoints(logits, boxes, "probability" if probability else "logit")


@decode_traced.register_fake
def _(logits: Tensor, boxes: Tensor, probability: bool) -> Tensor:
    return boxes.new_empty(*logits.shape[:2], 3)
