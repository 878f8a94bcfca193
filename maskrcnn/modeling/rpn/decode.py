"""From the RPN's outputs to proposals (Ren et al. 2015, section 3.3; per level: Lin et al. 2017, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from maskrcnn.layers import batched_nms
from maskrcnn.modeling.box_coder import decode_boxes
from maskrcnn.structures import clip_boxes, large_enough

RankBy = Literal["logit", "probability"]


@torch.no_grad()
def select_proposals(
    anchors: Sequence[Tensor],
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    *,
    pre_nms: int,
    post_nms: int,
    nms_threshold: float,
    min_size: float = 0.0,
    min_score: float = 0.0,
    rank_by: RankBy = "logit",
) -> tuple[list[Tensor], list[Tensor]]:
    """The best proposals of every image: top-k and NMS a level, then top-k over the image.

    Args:
        anchors: [Al, 4] a level, xyxy pixels.
        logits: [N, Al] a level.  deltas: [N, Al, 4] a level.
        image_sizes: (height, width) of every image before padding; proposals are cut to it.
        pre_nms: how many of a level enter NMS.  post_nms: how many of an image leave.
        min_size: drop proposals with a side below this, in pixels; empty ones always go.
        min_score: drop proposals whose objectness (sigmoid) is below this.
        rank_by: what NMS sorts by.  The order is the same but where the probability rounds to 0 or 1.

    Returns:
        boxes: one [P, 4] an image, xyxy pixels, by falling objectness, in the anchors' dtype.
        scores: their objectness, one [P] an image, in [0, 1].
    """
    boxes, scores, levels = [], [], []
    for level, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas, strict=True)):
        count = min(pre_nms, logit.shape[1])
        score, index = logit.to(anchor.dtype).topk(count, dim=1)
        delta = delta.gather(1, index[..., None].expand(-1, -1, 4))
        boxes.append(
            decode_boxes(delta.flatten(0, 1), anchor[index].flatten(0, 1)).view(len(index), count, 4)
        )
        scores.append(score)
        levels.append(torch.full((count,), level, dtype=torch.int64, device=logit.device))
    all_boxes, all_scores, all_levels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels)
    proposals, objectness = [], []
    for box, score, (height, width) in zip(all_boxes, all_scores, image_sizes, strict=True):
        box = clip_boxes(box, height, width)
        valid = large_enough(box, min_size) & torch.isfinite(score)
        probability = score.sigmoid()
        if min_score > 0:
            valid &= probability >= min_score
        if rank_by == "probability":
            score = probability
        box, score, level_of, probability = box[valid], score[valid], all_levels[valid], probability[valid]
        keep = batched_nms(box, score, level_of, nms_threshold)[:post_nms]
        proposals.append(box[keep])
        objectness.append(probability[keep])
    return proposals, objectness
