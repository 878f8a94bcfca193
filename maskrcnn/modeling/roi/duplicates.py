"""Non-maximum suppression of detections by their masks: boxes of long, slanted or nested objects say little.

The masks of two detections are compared where their boxes meet, on a grid as fine as the masks themselves,
each read there as it is pasted (``inference.paste``, ``aligned``).  So the IoU is that of the masks in the
image but for the rasters, whatever the size of the image, and no image is ever filled.

Legend: N = images, D = detections of an image (room for them), C = neighbours, M = side of the masks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.modeling.interfaces import DUPLICATES
from maskrcnn.modeling.roi.rois import FoundRoIs
from maskrcnn.structures import box_iou
from maskrcnn.structures.boxes import box_area

#: Better detections that one is compared with at most, those whose boxes overlap it most: of more there are
#: hardly any behind NMS on boxes.
NEIGHBOURS = 32
#: Rounds: as many as the longest chain of detections has, of which each suppresses the next.
ROUNDS = 32
#: Probability from which on a point belongs to a mask.
_INSIDE = 0.5


@DUPLICATES.register("masks")
def without_duplicates(found: FoundRoIs, iou_threshold: float, across_classes: bool) -> FoundRoIs:
    """What was found, without what :func:`worse_duplicates` names; in the static form in as many rows.

    Args:
        across_classes: detections of different classes are duplicates too.
    """
    rois = found.rois
    if not len(rois):
        return found
    labels = torch.zeros_like(rois.labels) if across_classes else rois.labels
    columns = rois.boxes, labels, found.values["mask_head"]
    if rois.real is not None:
        boxes, labels, masks, real = (x.unflatten(0, (found.size, -1)) for x in (*columns, rois.real))
        return replace(
            found, rois=rois.where(~worse_duplicates(boxes, labels, masks, real, iou_threshold).flatten())
        )
    counts = torch.bincount(rois.images, minlength=found.size).tolist()
    parts = (x.split(counts) for x in (*columns, torch.ones_like(labels, dtype=torch.bool)))
    images = [tuple(x[None] for x in own) for own in zip(*parts, strict=True)]
    gone = [worse_duplicates(b, label, m, real, iou_threshold)[0] for b, label, m, real in images]
    keep = ~torch.cat(gone)
    return replace(
        found, rois=rois.where(keep), values={name: value[keep] for name, value in found.values.items()}
    )


@torch.no_grad()
def worse_duplicates(
    boxes: Tensor, labels: Tensor, masks: Tensor, real: Tensor, iou_threshold: float
) -> Tensor:
    """Which detections are suppressed: by a better one that is not, whose mask overlaps theirs by more.

    Shapes follow from shapes, and nothing waits for the device.

    Args:
        boxes: [N, D, 4] xyxy, a frame of pixels; the better ones first.
        labels: int64 [N, D]; only those of one label are compared.
        masks: [N, D, M, M] in [0, 1], each over the extent of its own box.
        real: bool [N, D]; the others are not looked at.
        iou_threshold: in [0, 1].

    Returns:
        bool [N, D].
    """
    room = real.shape[1]
    place = torch.arange(room, device=boxes.device)
    alike = (labels[:, None] == labels[:, :, None]) & real[:, None] & real[:, :, None]
    rivals = alike & (place < place[:, None])  # [N, D, D]: of two alike the second is ahead
    overlap = torch.where(rivals, box_iou(boxes, boxes), 0)
    near, neighbour = overlap.topk(min(NEIGHBOURS, room), dim=2)  # [N, D, C]
    iou = mask_iou(*_pairs(boxes, masks, neighbour))
    suppresses = (near > 0) & (iou.view(near.shape) > iou_threshold)
    gone = torch.zeros_like(real)
    for _ in range(min(ROUNDS, room)):  # after t of them those at the first t places of every chain are right
        gone = (suppresses & ~gone.gather(1, neighbour.flatten(1)).view(near.shape)).any(dim=2)
    return gone


def mask_iou(boxes: Tensor, masks: Tensor, other_boxes: Tensor, other_masks: Tensor) -> Tensor:
    """IoU of the masks of P pairs.

    Args:
        boxes, other_boxes: [P, 4] xyxy of one frame.
        masks, other_masks: [P, M, M] in [0, 1], each over its own box.

    Returns:
        [P] in [0, 1]; 0 where both are empty.
    """
    low = torch.maximum(boxes[:, :2], other_boxes[:, :2])
    shared = torch.cat((low, torch.minimum(boxes[:, 2:], other_boxes[:, 2:]).maximum(low)), dim=1)
    both = _inside(boxes, masks, shared) & _inside(other_boxes, other_masks, shared)
    common = both.flatten(1).to(boxes.dtype).mean(dim=1) * box_area(shared)
    own, other = (
        (m >= _INSIDE).flatten(1).to(boxes.dtype).mean(dim=1) * box_area(b)
        for b, m in ((boxes, masks), (other_boxes, other_masks))
    )
    union = own + other - common
    return torch.where(union > 0, common / union.clamp(min=torch.finfo(boxes.dtype).tiny), 0).clamp(max=1)


def _inside(boxes: Tensor, masks: Tensor, window: Tensor) -> Tensor:
    """Whether the M x M middles of the cells of ``window`` [P, 4] lie in each mask: bool [P, M, M]."""
    side = masks.shape[-1]
    steps = (torch.arange(side, device=masks.device, dtype=boxes.dtype) + 0.5) / side
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=torch.finfo(boxes.dtype).eps)[:, None]
    corner, extent = (window[:, None, :2] - boxes[:, None, :2]), (window[:, 2:] - window[:, :2])[:, None]
    at = (corner + steps[:, None] * extent) / size * 2 - 1  # [P, M, 2], x and y from -1 to 1 over the box
    grid = torch.stack(
        (at[:, None, :, 0].expand(-1, side, -1), at[:, :, None, 1].expand(-1, -1, side)), dim=-1
    )
    values = F.grid_sample(masks[:, None].to(grid.dtype), grid, align_corners=False)
    return values[:, 0] >= _INSIDE


def _pairs(boxes: Tensor, masks: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes [P, 4] and masks [P, M, M] of each detection, and of each of its ``neighbour`` [N, D, C]."""
    images, room, count = neighbour.shape
    first = torch.arange(images, device=boxes.device)[:, None, None] * room
    own = (first + torch.arange(room, device=boxes.device)[None, :, None]).expand(-1, -1, count).flatten()
    other = (first + neighbour).flatten()
    flat_boxes, flat_masks = boxes.flatten(0, 1), masks.flatten(0, 1)
    return flat_boxes[own], flat_masks[own], flat_boxes[other], flat_masks[other]
