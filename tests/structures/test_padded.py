"""Ground truth and proposals of a batch in one shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskrcnn.structures import InstanceMasks, Targets
from maskrcnn.structures.padded import bucket, pad_proposals, pad_targets
from maskrcnn.structures.samples import pack_masks

SQUARE = [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]]


def target(count: int, keypoints: int = 0) -> Targets:
    boxes = torch.tensor([[2.0, 2.0, 10.0, 10.0]]).repeat(count, 1) + torch.arange(count)[:, None]
    points = torch.ones(count, keypoints, 3) if keypoints else None
    masks = InstanceMasks.from_coco([SQUARE] * count, 32, 32)
    return Targets(boxes, torch.arange(count) + 1, masks, torch.arange(count), points)


def test_instances_come_first_and_unit_boxes_fill_the_room() -> None:
    two, none = target(2, keypoints=3), target(0)
    padded = pad_targets([two, none])
    assert padded.boxes.shape == (2, 2, 4) and len(padded) == 2
    assert padded.boxes[0].equal(two.boxes) and padded.labels[0].tolist() == [1, 2]
    assert padded.boxes[1].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 2 and padded.labels[1].tolist() == [0, 0]
    assert padded.real.tolist() == [[True, True], [False, False]]
    assert padded.keypoints is not None and padded.keypoints.shape == (2, 2, 3, 3)
    assert pad_targets(padded) is padded
    assert pad_targets([two, none], static=True).boxes.shape == (2, 8, 4)
    nothing = pad_targets([none, none])
    assert nothing.boxes.shape == (2, 1, 4) and not nothing.real.any()
    assert nothing.keypoints is not None and nothing.keypoints.shape == (2, 1, 0, 3)


def test_what_an_instance_lacks_is_none() -> None:
    two, one = target(2, keypoints=3), target(1)
    assert pad_targets([two, one]).keypoints is None
    without = pad_targets([two, replace(one, masks=None)])
    assert without.masks is None and without.packed(drawn=True) is None
    assert pad_targets([two, replace(target(0), masks=None)]).packed(drawn=True) is not None
    with pytest.raises(ValueError, match="different numbers of keypoints"):
        pad_targets([two, target(1, keypoints=4)])


def test_masks_that_a_loader_packed_are_taken() -> None:
    targets = pack_masks([target(2), target(0), target(1)], drawn=True)
    padded = pad_targets(targets)
    assert targets[0].packed is not None and padded.packing is targets[0].packed[0]
    assert padded.packed(drawn=True) is padded.packing
    bitmaps = padded.packed(drawn=False)
    assert bitmaps is not None and not bitmaps.drawn
    mixed = pad_targets([targets[0], target(1)])
    assert mixed.packing is None
    masks = mixed.packed(drawn=True)
    assert masks is not None and masks.per_image >= 2


def test_proposals_are_a_sequence_of_the_real_ones() -> None:
    boxes = [torch.rand(3, 4), torch.rand(0, 4), torch.rand(1, 4)]
    padded = pad_proposals(boxes)
    assert padded.boxes.shape == (3, 3, 4) and len(padded) == 3
    assert all(a.equal(b) for a, b in zip(padded, boxes, strict=True))
    assert [len(b) for b in padded[1:]] == [0, 1]
    assert padded.boxes[1].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 3
    fixed = pad_proposals(boxes, static=True)
    assert fixed.boxes.shape == (3, 8, 4) and fixed[2].equal(boxes[2])
    assert pad_proposals(fixed) is fixed


def test_buckets_are_few_and_hold_what_they_must() -> None:
    sizes = {bucket(count) for count in range(1000)}
    assert sorted(sizes) == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(bucket(count) >= count and bucket(count) * 2 <= max(3 * count, 16) for count in range(1000))
