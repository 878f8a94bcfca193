"""Large-scale jitter: one size out, whatever went in, and everything follows the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskrcnn.data import RawSample
from maskrcnn.data.transforms.jitter import LargeScaleJitter
from tests.data.transforms.test_basic import HEIGHT, WIDTH, assert_consistent, rng, sample


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.6, 2.0])
def test_image_boxes_and_masks_move_together(scale: float) -> None:
    for seed in range(4):
        found = LargeScaleJitter((64, 64), scale, scale, pad_value=(0, 0, 0))(sample(), rng(seed))
        assert found.size == (64, 64)
        # A mask that was cut keeps its outside part; its box is that of the part in the image.
        assert_consistent(found, tolerance=1e-4)


def test_a_small_image_lies_at_the_upper_left_of_the_padding() -> None:
    found = LargeScaleJitter((80, 80), 0.5, 0.5, pad_value=(1, 2, 3))(sample(), rng())
    h, w = HEIGHT * 40 // WIDTH, 40  # the wide image's width becomes half of 80
    assert found.size == (80, 80)
    outside = np.ones((80, 80), dtype=bool)
    outside[:h, :w] = False
    assert (found.image[outside] == (1, 2, 3)).all()
    assert (found.image[:h, :w] != (1, 2, 3)).any(-1).all()
    assert torch.allclose(found.targets.boxes, sample().targets.boxes * (40 / WIDTH))
    assert found.targets.masks is not None
    assert (found.targets.masks.height, found.targets.masks.width) == (80, 80)
    assert len(found.targets) == 4


def test_windows_lie_anywhere_and_instances_cut_away_are_gone() -> None:
    """At scale 2 a wide image is 40 x 64 to 80 x 128: the windows reach every side, each axis on its own."""
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[..., 0] = np.arange(WIDTH)
    image[..., 1] = np.arange(HEIGHT)[:, None]
    start = sample()
    corners, kept = set(), set()
    for seed in range(200):
        found = LargeScaleJitter((64, 64), 2.0, 2.0)(RawSample(image, start.info, start.targets), rng(seed))
        corners.add((int(found.image[0, 0, 0]), int(found.image[0, 0, 1])))
        kept.add(tuple((found.targets.annotation_ids - 100).tolist()))
        boxes = found.targets.boxes
        assert (boxes >= 0).all() and (boxes <= 64).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
    xs, ys = {x for x, _ in corners}, {y for _, y in corners}
    assert {0, WIDTH // 2} <= xs and {0, HEIGHT // 2 - 12} <= ys
    assert len(corners) > len(xs)  # not on a diagonal
    assert any(2 not in k for k in kept) and any(2 in k for k in kept)


def test_the_scale_is_drawn_from_the_whole_range() -> None:
    plain = sample()
    image = np.full_like(plain.image, 255)
    sizes = []
    for seed in range(300):
        found = LargeScaleJitter((64, 64), 0.1, 2.0, pad_value=(0, 0, 0))(
            RawSample(image, plain.info, plain.targets), rng(seed)
        )
        sizes.append(int((found.image[0, :, 0] == 255).sum()))
    assert min(sizes) < 10 and 0.4 < np.mean([s == 64 for s in sizes]) < 0.65  # factors above 1: 10 of 19
    below = np.array([s for s in sizes if s < 64])
    assert abs(np.median(below) - 64 * 0.55) < 6  # even between 0.1 and 1


def test_keypoints_and_proposals_follow_and_end_at_the_window() -> None:
    start = sample()
    corners = start.targets.boxes.view(4, 2, 2)
    keypoints = torch.cat((corners, torch.full((4, 2, 1), 2.0)), 2)
    start = replace(start, targets=replace(start.targets, keypoints=keypoints), proposals=start.targets.boxes)
    small = LargeScaleJitter((80, 80), 0.5, 0.5)(start, rng())
    assert small.proposals is not None and small.targets.keypoints is not None
    assert torch.allclose(small.proposals, start.targets.boxes * (40 / WIDTH))
    assert torch.allclose(small.targets.keypoints[..., :2], corners * (40 / WIDTH))
    hidden = 0
    for seed in range(10):
        large = LargeScaleJitter((64, 64), 2.0, 2.0)(start, rng(seed))
        points, proposals = large.targets.keypoints, large.proposals
        assert points is not None and proposals is not None
        assert len(points) == len(large.targets) == len(proposals)
        assert (points[..., :2] >= 0).all() and (points[..., :2] <= 64).all()
        assert (proposals >= 0).all() and (proposals <= 64).all()
        seen = points[..., 2] > 0
        hidden += int((~seen).sum())
        # A corner still in the window is that of the box.
        assert torch.allclose(points[..., :2][seen], large.targets.boxes.view(-1, 2, 2)[seen], atol=1e-4)
    assert hidden > 0
