"""Which RoIs to train on, and what they should predict (Girshick 2015, section 2.3; He et al. 2017, 3.1).

Legend: G = ground truths of an image, P = its positive RoIs, R = its sampled RoIs, M = mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.modeling.matching import Sampler, match_boxes
from maskrcnn.modeling.roi.mask_targets import MaskTarget, rasterise
from maskrcnn.structures import PackedMasks, Targets
from maskrcnn.structures.samples import pack_masks
from maskrcnn.structures.seeds import ROIS, random_keys

_TRUTHS = 1 << 40


@dataclass(frozen=True)
class RoISample:
    """The RoIs of one image to train on, the positive ones first.

    boxes: [R, 4] xyxy, network frame.
    labels: int64 [R] in [0, K]; K is background.
    truth: int64 [P], the ground truth of each positive RoI.
    """

    boxes: Tensor
    labels: Tensor
    truth: Tensor

    @property
    def num_positive(self) -> int:
        """How many of the RoIs have an object; they come first."""
        return self.truth.shape[0]

    @property
    def positive_boxes(self) -> Tensor:
        """[P, 4]."""
        return self.boxes[: self.num_positive]

    @property
    def positive_labels(self) -> Tensor:
        """int64 [P] in [0, K)."""
        return self.labels[: self.num_positive]


@torch.no_grad()
def sample_rois(
    proposals: Tensor,
    targets: Targets,
    sampler: Sampler,
    *,
    num_classes: int,
    low: float,
    high: float,
    count: int,
    positive_fraction: float,
    floor: float = 0.0,
    seed: Tensor,
) -> RoISample:
    """Join the ground truth to an image's proposals, match, and sample.

    Args:
        proposals: [P', 4] xyxy, network frame.
        low, high: IoU below which a RoI is background, from which it is foreground.
        count, positive_fraction: RoIs to sample, and how many of them at most foreground.
        floor: RoIs of an IoU below it are never sampled.
        seed: int64 scalar, of the sampling.
    """
    truth = targets.boxes.to(proposals.dtype)
    boxes = torch.cat((proposals, truth))
    index, matched = match_boxes(truth, boxes, low, high, low_quality=False, floor=floor)
    rows = torch.arange(len(boxes), device=boxes.device)
    # Ground truths are numbered apart: their keys do not depend on how many proposals there are.
    rows[len(proposals) :] += _TRUTHS - len(proposals)
    positive, negative = sampler(matched, count, positive_fraction, random_keys(seed, ROIS, rows))
    labels = torch.full((positive.shape[0] + negative.shape[0],), num_classes, device=boxes.device)
    labels[: positive.shape[0]] = targets.labels[index[positive]]
    return RoISample(boxes[torch.cat((positive, negative))], labels, index[positive])


def positive_rows(samples: Sequence[RoISample]) -> Tensor:
    """int64 [P of all images]: where the positive RoIs stand among all sampled ones, image after image."""
    rows, start = [], 0
    for sample in samples:
        rows.append(torch.arange(start, start + sample.num_positive, device=sample.boxes.device))
        start += len(sample.boxes)
    return torch.cat(rows)


def keypoint_targets(samples: Sequence[RoISample], targets: Sequence[Targets], num_keypoints: int) -> Tensor:
    """The ground-truth keypoints of every positive RoI.

    Returns:
        float32 [P of all images, J, 3]: x, y in the network frame, visibility (0 = not labelled).

    Raises:
        ValueError: a target carries no keypoints though it has instances, or another number of them.
    """
    rows = []
    for sample, target in zip(samples, targets, strict=True):
        if sample.num_positive == 0:
            continue
        if target.keypoints is None or target.keypoints.shape[1] != num_keypoints:
            have = "none" if target.keypoints is None else str(target.keypoints.shape[1])
            raise ValueError(
                f"model.keypoint_head wants {num_keypoints} keypoints an instance, the data have {have}"
            )
        rows.append(target.keypoints[sample.truth])
    return torch.cat(rows) if rows else torch.zeros(0, num_keypoints, 3, device=samples[0].boxes.device)


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
def mask_targets(
    samples: Sequence[RoISample], targets: Sequence[Targets], size: int, mode: MaskTarget
) -> Tensor:
    """The ground-truth mask of every positive RoI inside its box, rasterised on the RoIs' device.

    Returns:
        float32 [P of all images, M, M] in [0, 1].

    Raises:
        ValueError: a target carries no masks though it has instances.
    """
    if any(len(target) and target.masks is None for target in targets):
        raise ValueError("a mask head needs targets with masks; leave it out with model.mask_head: null")
    packed, firsts = masks_of_batch(targets, mode, samples[0].boxes.device)
    boxes = torch.cat([sample.positive_boxes for sample in samples])
    instances = [sample.truth + first for sample, first in zip(samples, firsts, strict=True)]
    return rasterise(packed, boxes, torch.cat(instances), size, mode)


def masks_of_batch(
    targets: Sequence[Targets], mode: MaskTarget, device: torch.device
) -> tuple[PackedMasks, list[int]]:
    """The packed masks of a batch on ``device``, and in which row those of each image begin.

    Those that a loader packed, where they fit; else they are packed now.
    """
    drawn = mode == "polygon"
    packed = [t.packed for t in targets if t.packed is not None]
    if len(packed) != len(targets) or any(p.drawn != drawn or p is not packed[0][0] for p, _ in packed):
        packed = [t.packed for t in pack_masks(targets, drawn) if t.packed is not None]
    return packed[0][0].to(device), [row for _, row in packed]
