"""From the RPN's outputs to proposals (Ren et al. 2015, section 3.3; per level: Lin et al. 2017, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.layers import nms
from maskrcnn.modeling.box_coder import decode_boxes
from maskrcnn.structures import clip_boxes, large_enough
from maskrcnn.structures.boxes import unit_box
from maskrcnn.structures.padded import Proposals

RankBy = Literal["logit", "probability"]


@torch.no_grad()
def select_proposals(
    anchors: Sequence[Tensor],
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    *,
    pre_nms: int,
    post_nms: int,
    nms_threshold: float,
    min_size: float = 0.0,
    min_score: float = 0.0,
    rank_by: RankBy = "logit",
) -> Proposals:
    """The best proposals of every image: top-k and NMS a level, then top-k over the image.

    Args:
        anchors: [Al, 4] a level, xyxy pixels.
        logits: [N, Al] a level.  deltas: [N, Al, 4] a level.
        image_sizes: [N, 2], height and width of every image before padding; proposals are cut to it.
        pre_nms: how many of a level enter NMS.  post_nms: how many of an image leave.
        min_size: drop proposals with a side below this, in pixels; empty ones always go.
        min_score: drop proposals whose objectness (sigmoid) is below this.
        rank_by: what NMS sorts by.  The order is the same but where the probability rounds to 0 or 1.

    Returns:
        The proposals by falling objectness, which is their score, in the anchors' dtype; there is room for
        ``post_nms`` an image, or for as many as enter NMS where that is less.
    """
    # A graph for images of any size has the same room for all: its shapes are then numbers, sooner traced.
    any_size = torch.compiler.is_exporting()
    counts = [pre_nms if any_size else min(pre_nms, logit.shape[1]) for logit in logits]
    most = max(counts)
    height, width = image_sizes[:, 0, None], image_sizes[:, 1, None]
    of_levels: list[list[Tensor]] = []
    for anchor, logit, delta, count in zip(anchors, logits, deltas, counts, strict=True):
        if any_size:
            logit = F.pad(logit, (0, count), value=-torch.inf)
        score, index = logit.to(anchor.dtype).topk(count, dim=1)
        if any_size:
            index = index.clamp(max=anchor.shape[0] - 1)
        delta = delta.gather(1, index[..., None].expand(-1, -1, 4))
        box = decode_boxes(delta.flatten(0, 1), anchor[index].flatten(0, 1)).view(-1, count, 4)
        box = clip_boxes(box, height, width)
        probability = score.sigmoid()
        valid = large_enough(box, min_size) & torch.isfinite(score)
        if min_score > 0:
            valid &= probability >= min_score
        rank = probability if rank_by == "probability" else score
        room = most - count
        values = [F.pad(value, (0, room)) for value in (probability, rank, valid)]
        of_levels.append([F.pad(box, (0, 0, 0, room)), *values])
    images = image_sizes.shape[0]
    box, score, rank, valid = (torch.stack(x, dim=1).flatten(0, 1) for x in zip(*of_levels, strict=True))
    kept, number = nms(box, rank, valid, nms_threshold, min(post_nms, most))
    # Of all levels of an image, by falling rank: a stable sort, as if NMS had seen them in one row.
    valid = (torch.arange(kept.shape[1], device=kept.device) < number[:, None]).view(images, -1)
    rank = rank.gather(1, kept).view(images, -1)
    box = box.gather(1, kept[..., None].expand(-1, -1, 4)).view(images, -1, 4)
    score = score.gather(1, kept).view(images, -1)
    room = min(post_nms, sum(counts))
    order = torch.where(valid, rank, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :room]
    valid = valid.gather(1, order)
    box = box.gather(1, order[..., None].expand(-1, -1, 4))
    return Proposals(torch.where(valid[..., None], box, unit_box(box)), valid, score.gather(1, order))
