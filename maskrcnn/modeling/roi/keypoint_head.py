"""The keypoint head: one heat map a keypoint, of which one cell is right (He et al. 2017, section 5).

Legend: R = RoIs, J = keypoints, M = side of the heat maps (56).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Cells, Layers, Positive, Width
from maskrcnn.modeling.interfaces import KEYPOINT_HEADS, KeypointHead
from maskrcnn.modeling.losses import of_whole, wide
from maskrcnn.modeling.norms import ConvNorm, NormName, start_convs
from maskrcnn.modeling.roi.keypoint_decode import Scores, decode_keypoints, decode_traced
from maskrcnn.modeling.roi.rois import DetectedRoIs


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

    def in_graph(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """``keypoints`` [D, J, 3], by one operator; see :class:`RoIHead`."""
        return {"keypoints": decode_traced(values, rois.boxes, self.scores == "probability")}


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
