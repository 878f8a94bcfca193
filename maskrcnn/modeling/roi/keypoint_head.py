"""The keypoint head: one heat map a keypoint, of which one cell is right (He et al. 2017, section 5).

Legend: R = RoIs, J = keypoints, M = side of the heat maps (56), A = side of a RoI in whole pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Cells, Layers, Positive, Width
from maskrcnn.modeling.interfaces import KEYPOINT_HEADS, KeypointHead
from maskrcnn.modeling.losses import of_whole, wide
from maskrcnn.modeling.norms import ConvNorm, NormName, start_convs

#: Numbers in the largest tensor of a pass of :func:`decode_keypoints`: what a core's cache holds, and what
#: keeps a GPU busy.
_NUMBERS_CPU, _NUMBERS_GPU = 2**18, 2**24


def keypoint_cells(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The heat map cell of every keypoint: its RoI is cut into M x M cells.

    A keypoint on the right or lower edge belongs to the last cell.

    Args:
        keypoints: [R, J, 3], x, y in the boxes' frame, visibility (0 = not labelled).
        boxes: [R, 4] xyxy.
        size: M.

    Returns:
        cells: int64 [R, J], row * M + column; 0 where not ``valid``.
        valid: bool [R, J], labelled and inside its RoI.
    """
    points = keypoints[..., :2].to(boxes.dtype)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    place = ((points - low) * (size / (high - low))).floor().long()
    place = torch.where(points == high, size - 1, place)
    valid = (keypoints[..., 2] > 0) & ((place >= 0) & (place < size)).all(-1)
    return torch.where(valid, place[..., 1] * size + place[..., 0], 0), valid


def keypoint_loss(
    logits: Tensor,
    cells: Tensor,
    valid: Tensor,
    normalizer: float | None = None,
    *,
    static: bool = False,
) -> Tensor:
    """Softmax cross-entropy over the M x M cells of every valid keypoint; keypoints do not compete.

    Args:
        logits: [R, J, M, M].  cells, valid: [R, J], see :func:`keypoint_cells`.
        normalizer: what the sum is divided by; None: the number of valid keypoints.
        static: in fixed shapes; else only the maps of valid keypoints are read.

    Returns:
        A scalar, 0 with a gradient of 0 where nothing is valid.
    """
    if static:
        all_maps, wanted = wide(logits.flatten(2)).flatten(0, 1), torch.where(valid, cells, -1).flatten()
        total = F.cross_entropy(all_maps, wanted, ignore_index=-1, reduction="sum")
        count = valid.sum()
        if normalizer is None:
            return of_whole(total / count.clamp(min=1), count)
        return of_whole(total / normalizer, None)
    chosen = wide(logits.flatten(2)[valid])
    own = chosen.shape[0] if normalizer is None else None
    if chosen.shape[0] == 0:
        return of_whole(logits.sum() * 0, own)
    total = F.cross_entropy(chosen, cells[valid], reduction="sum")
    return of_whole(total / (chosen.shape[0] if normalizer is None else normalizer), own)


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
        across = _bicubic(side, whole[rows, 0], width)
        down = _bicubic(side, whole[rows, 1], height)
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


def _bicubic(side: int, sizes: Tensor, canvas: int) -> Tensor:
    """Weights that enlarge M cells to ``sizes`` [R] pixels: [R, canvas, M]; past its size, the last pixel's.

    Cubic convolution (Keys 1981) with a = -0.75, pixel centres aligned, edges repeated: what
    ``F.interpolate(mode="bicubic", align_corners=False)`` computes.
    """
    pixels = torch.arange(canvas, device=sizes.device, dtype=sizes.dtype)
    pixels = torch.minimum(pixels, sizes[:, None] - 1)
    place = (pixels + 0.5) * (side / sizes)[:, None] - 0.5
    base = place.floor()
    t = place - base
    a = -0.75
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (t + 1, 2 - t)]
    weights = torch.zeros(len(sizes), canvas, side, dtype=sizes.dtype, device=sizes.device)
    for offset, weight in zip((-1, 0, 1, 2), (far[0], near[0], near[1], far[1]), strict=True):
        cell = (base + offset).clamp(0, side - 1).long()
        weights.scatter_add_(2, cell[..., None], weight[..., None])
    return weights


class ConvKeypointHead(KeypointHead):
    """3x3 convolutions, a deconvolution to J maps of twice the side, and a bilinear enlargement by 2.

    Args:
        channels: of the pooled features.  num_keypoints: J.
        convs and the rest: see :class:`ConvKeypointHeadConfig`.
    """

    def __init__(
        self,
        channels: int,
        num_keypoints: int,
        *,
        convs: int = 8,
        width: int = 512,
        pool_size: int = 14,
        norm: NormName | None = None,
        loss_weight: float = 1.0,
        normalizer: float | None = None,
        scores: Scores = "logit",
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.heatmap_size = 4 * pool_size
        self.num_keypoints = num_keypoints
        self.loss_weight = loss_weight
        self.normalizer = normalizer
        self.scores: Scores = scores
        self.convs = nn.Sequential(
            *(ConvNorm(channels if i == 0 else width, width, 3, norm=norm, relu=True) for i in range(convs))
        )
        self.deconv = nn.ConvTranspose2d(width if convs else channels, num_keypoints, 4, stride=2, padding=1)
        start_convs(self)

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> logits [R, J, M, M]."""
        low = self.deconv(self.convs(pooled))
        return F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)

    def loss(self, logits: Tensor, boxes: Tensor, keypoints: Tensor, real: Tensor | None = None) -> Tensor:
        """Scalar: ``logits`` [P, J, M, M], ``boxes`` [P, 4], ``keypoints`` [P, J, 3], ``real`` bool [P]."""
        cells, valid = keypoint_cells(keypoints, boxes, self.heatmap_size)
        if real is not None:
            valid = valid & real[:, None]
        return self.loss_weight * keypoint_loss(
            logits, cells, valid, self.normalizer, static=real is not None
        )

    def decode(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """``logits`` [D, J, M, M], ``boxes`` [D, 4] -> [D, J, 3]."""
        return decode_keypoints(logits, boxes, self.scores)


@KEYPOINT_HEADS.register("conv")
@dataclass(frozen=True, kw_only=True)
class ConvKeypointHeadConfig(Config):
    """Eight convolutions, a deconvolution and an enlargement, 14x14 to 56x56 (He et al. 2017, section 5)."""

    #: J, keypoints an instance; COCO's persons have 17.
    num_keypoints: Annotated[int, Range(1, 10_000, "no instance has so many keypoints")] = 17
    #: 3x3 convolutions.
    convs: Layers = 8
    #: Their channels.
    width: Width = 512
    #: Side of the pooled features; the heat maps are four times as large.
    pool_size: Cells = 14
    #: Normalisation after the 3x3 convolutions; none in the paper.
    norm: NormName | None = None
    #: Factor of the loss, > 0.
    loss_weight: Positive = 1.0
    #: What the sum over keypoints of a batch is divided by, > 0.  Unset: the number of visible ones, as
    #: Detectron2 by default and torchvision.  Detectron's own: images a device x J x sampled RoIs x 0.25.
    normalizer: Positive | None = None
    #: The score of a predicted keypoint: logit, the height of its heat map (torchvision); or probability,
    #: about 0 to 1, the softmax there (Detectron2).  COCO's AP reads neither.
    scores: Scores = "logit"

    def build(self, channels: int) -> ConvKeypointHead:
        """See :class:`ConvKeypointHead`."""
        return ConvKeypointHead(channels, **self.arguments())
