"""Which RoIs to train on, and what they should predict (Girshick 2015, section 2.3; He et al. 2017, 3.1).

Legend: N = images, G = room for ground truths of an image, P = positive RoIs, J = keypoints, M = mask side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.errors import plural
from maskrcnn.layers import match
from maskrcnn.modeling.matching import IGNORED, Sampler, draw
from maskrcnn.modeling.roi.mask_targets import MaskTarget, rasterise
from maskrcnn.modeling.roi.rois import SampledRoIs
from maskrcnn.structures.padded import PaddedTargets, Proposals
from maskrcnn.structures.seeds import ROIS, random_keys

_TRUTHS = 1 << 40


@torch.no_grad()
def sample_rois(
    proposals: Proposals,
    targets: PaddedTargets,
    sampler: Sampler | None,
    *,
    num_classes: int,
    low: float,
    high: float,
    count: int,
    positive_fraction: float,
    floor: float = 0.0,
    seeds: Tensor,
    static: bool,
) -> SampledRoIs:
    """Join the ground truth of every image to its proposals, match, and sample.

    Args:
        proposals: network frame.
        low, high: IoU below which a RoI is background, from which it is foreground.
        count, positive_fraction: RoIs to sample of an image, and how many of them at most foreground.
        floor: RoIs of an IoU below it are never sampled.
        seeds: int64 [N], of the sampling.
        static: room for ``count`` RoIs of an image; else only those that are drawn.
    """
    images, device = len(targets), targets.boxes.device
    truth = targets.boxes.to(proposals.boxes.dtype)
    boxes = torch.cat((proposals.boxes, truth), dim=1)
    index, matched = match(truth, targets.real, boxes, low, high, False, floor)
    matched = torch.where(torch.cat((proposals.real, targets.real), dim=1), matched, IGNORED)
    # Ground truths are numbered apart: their keys do not depend on how many proposals there are.
    rows = [torch.arange(part.shape[1], device=device) for part in (proposals.boxes, truth)]
    keys = random_keys(seeds[:, None], ROIS, torch.cat((rows[0], rows[1] | _TRUTHS)))
    drawn = draw(matched, count, positive_fraction, keys, sampler)
    # The positive ones take the first slots, the negative ones those behind.
    most, room = drawn.positive.shape[1], drawn.negative.shape[1]
    positives = drawn.positive_real.sum(dim=1, keepdim=True)
    slots = torch.arange(room, device=device).expand(images, room)
    places = torch.where(slots < positives, slots, slots - positives + most)
    chosen = torch.cat((drawn.positive, drawn.negative), dim=1).gather(1, places)
    real = torch.cat((drawn.positive_real, drawn.negative_real), dim=1).gather(1, places).flatten()
    of_truth = index.gather(1, chosen)
    labels = torch.where(slots < positives, targets.labels.gather(1, of_truth), num_classes)
    image = torch.arange(images, device=device)[:, None].expand(images, room)
    rois = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    rois = torch.cat((image[..., None].to(boxes.dtype), rois), dim=2)
    sample = SampledRoIs(
        rois.flatten(0, 1),
        labels.flatten(),
        torch.ones_like(real) if static else None,
        of_truth.flatten(),
        torch.arange(images * room, device=device),
        targets,
        num_classes,
        room,
        most,
    )
    return sample.where(real)


def keypoint_targets(rois: SampledRoIs, num_keypoints: int) -> Tensor:
    """The ground-truth keypoints of every positive RoI.

    Returns:
        float32 [P, J, 3]: x, y in the network frame, visibility (0 = not labelled).

    Raises:
        ValueError: the instances carry no keypoints, or another number of them.
    """
    keypoints = rois.targets.keypoints
    have = None if keypoints is None else keypoints.shape[2]
    if keypoints is None or have not in (0, num_keypoints):  # 0: there is no instance
        raise ValueError(
            f"model.keypoint_head wants {plural(num_keypoints, 'keypoint')} an instance, the data have"
            f" {have or 'none'}"
        )
    if have == 0:
        return keypoints.new_zeros(len(rois), num_keypoints, 3)
    return keypoints[rois.images, rois.truth]


def show_keypoints(boxes: Tensor, keypoints: Tensor) -> Tensor:
    """Which RoIs show a labelled keypoint: bool [P].  The others would cost time and add nothing to the loss
    (Detectron2 leaves them out too).

    Args:
        boxes: [P, 4] xyxy.  keypoints: [P, J, 3] in their frame.
    """
    points = keypoints[..., :2]
    inside = ((points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])).all(-1)
    return (inside & (keypoints[..., 2] > 0)).any(-1)


@torch.no_grad()
def mask_targets(rois: SampledRoIs, size: int, mode: MaskTarget) -> Tensor:
    """The ground-truth mask of every positive RoI inside its box.

    Returns:
        float32 (float64 where the boxes are) [P, M, M] in [0, 1]; 0 where not real.

    Raises:
        ValueError: the instances carry no masks.
    """
    masks = rois.targets.packed(drawn=mode == "polygon")
    if masks is None:
        raise ValueError("a mask head needs targets with masks; leave it out with model.mask_head: null")
    instance = rois.images * masks.per_image + rois.truth
    if rois.real is not None:
        instance = torch.where(rois.real, instance, -1)
    return rasterise(masks, rois.boxes, instance, size, mode)
