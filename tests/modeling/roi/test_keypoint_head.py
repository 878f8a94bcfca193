"""Keypoint heat maps: cells, loss, decoding, each by hand and beside torchvision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchvision.models.detection.roi_heads import (
    keypointrcnn_loss,
    keypoints_to_heatmap,
)

from maskrcnn.errors import ConfigError
from maskrcnn.modeling import interfaces
from maskrcnn.modeling.roi.keypoint_head import (
    ConvKeypointHead,
    ConvKeypointHeadConfig,
    keypoint_cells,
    keypoint_loss,
)
from maskrcnn.modeling.roi.targets import show_keypoints
from maskrcnn.structures import Targets
from tests.modeling.roi.test_keypoint_decode import random_boxes
from tests.modeling.tiny import CONFIG, build, detecting, images, seeds, targets


def test_cells_by_hand() -> None:
    # A RoI from (10, 20) to (18, 36), cut into 4 x 4 cells of 2 x 4 pixels.
    boxes = torch.tensor([[10.0, 20.0, 18.0, 36.0]])
    points = torch.tensor(
        [[
            [10.0, 20.0, 2], [11.9, 23.9, 1], [12.0, 24.0, 2], [17.9, 35.9, 2],  # inside
            [18.0, 36.0, 2], [18.0, 20.0, 2],  # on the right and lower edge: the last cell
            [9.9, 20.0, 2], [18.1, 36.0, 2], [12.0, 19.9, 2],  # outside
            [12.0, 24.0, 0],  # not labelled
        ]]
    )  # fmt: skip
    cells, valid = keypoint_cells(points, boxes, 4)
    assert cells.tolist() == [[0, 0, 5, 15, 15, 3, 0, 0, 0, 0]]
    assert valid.tolist() == [[True] * 6 + [False] * 4]


def test_cells_as_torchvision() -> None:
    boxes = random_boxes(30, 100)
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(30, 17, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    share[::3] = share[::3].clamp(0, 1)  # many exactly on an edge
    points = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    points = torch.where(share == 1, boxes[:, None, 2:], points)
    flags = torch.randint(0, 3, (30, 17, 1), generator=generator)
    keypoints = torch.cat((points, flags), -1)
    cells, valid = keypoint_cells(keypoints, boxes, 56)
    wanted, wanted_valid = keypoints_to_heatmap(keypoints, boxes, 56)
    assert torch.equal(valid, wanted_valid.bool())
    assert torch.equal(cells, wanted)
    assert 0 < valid.sum() < valid.numel()


def test_loss_by_hand() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0, 1, 0] = math.log(3)  # softmax 1/6, 1/6, 3/6, 1/6
    cells, valid = torch.tensor([[2, 1, 0]]), torch.tensor([[True, True, False]])
    wanted = (math.log(2) + math.log(4)) / 2
    assert keypoint_loss(logits, cells, valid).item() == pytest.approx(wanted, rel=1e-6)
    assert keypoint_loss(logits, cells, valid, 10.0).item() == pytest.approx(wanted / 5, rel=1e-6)


def test_loss_and_gradient_as_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    head = ConvKeypointHead(4, 5, convs=1, width=4, pool_size=4)
    logits = torch.randn(6, 5, 16, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[i, 5.0 * i, 60.0, 55.0 + i] for i in range(6)], dtype=torch.float64)
    truth = torch.rand(3, 5, 3, generator=generator, dtype=torch.float64) * torch.tensor([90.0, 90.0, 3.0])
    truth[..., 2].floor_()
    index = torch.tensor([0, 2, 2, 1, 0, 1])
    ours = head.loss(logits, boxes, truth[index])
    theirs = keypointrcnn_loss(logits, [boxes], [truth], [index])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(ours, logits)
    (wanted,) = torch.autograd.grad(theirs, logits)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("count", [0, 3])
def test_no_visible_keypoint_gives_zero_and_a_gradient(count: int) -> None:
    head = ConvKeypointHead(4, 5, convs=1, width=4, pool_size=4, normalizer=7.0)
    logits = head(torch.rand(count, 4, 4, 4))
    loss = head.loss(logits, torch.tensor([[0.0, 0, 9, 9]]).expand(count, 4), torch.zeros(count, 5, 3))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_sizes_and_names_are_the_papers() -> None:
    head = ConvKeypointHeadConfig(width=8).build(4)
    assert head(torch.rand(2, 4, 14, 14)).shape == (2, 17, 56, 56)
    assert (head.pool_size, head.heatmap_size) == (14, 56)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes["convs.0.0.weight"] == (8, 4, 3, 3)
    assert shapes["convs.7.0.weight"] == (8, 8, 3, 3)
    assert shapes["deconv.weight"] == (8, 17, 4, 4)
    assert len(shapes) == 18
    full = ConvKeypointHeadConfig()
    assert (full.convs, full.width) == (8, 512)


@pytest.mark.parametrize(
    "wrong", [{"num_keypoints": 0}, {"convs": -1}, {"loss_weight": 0.0}, {"normalizer": 0.0}]
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ConvKeypointHeadConfig(**wrong).build(4)


HEAD = ConvKeypointHeadConfig(num_keypoints=2, convs=1, width=8, pool_size=7)


def truth(flags: list[float]) -> list[Targets]:
    """Two images of one and no instance; its keypoints stand in the middle, with these flags."""
    with_box, without = targets([[10.0, 12.0, 80.0, 90.0]], [])
    points = torch.tensor([[[40.0, 50.0, v] for v in flags]])
    return [replace(with_box, keypoints=points), replace(without, keypoints=torch.zeros(0, 2, 3))]


@pytest.mark.parametrize("mask", [True, False])
def test_the_model_trains_keypoints_beside_masks(mask: bool) -> None:
    model = build(keypoint_head=HEAD, **({} if mask else {"mask_head": None}))
    losses = model.losses(images(), truth([2, 1]), seeds())
    assert ("loss_mask" in losses) == mask
    # 28 x 28 cells, and a head that knows nothing yet: about log 784 = 6.7.
    assert 4 < losses["loss_keypoint"].item() < 9
    losses["loss_keypoint"].backward()
    assert model.roi.keypoint_head is not None
    assert all(p.grad is not None and p.grad.any() for p in model.roi.keypoint_head.parameters())


@pytest.mark.parametrize("labelled", [True, False])
def test_the_model_without_a_labelled_keypoint_has_no_loss(labelled: bool) -> None:
    model = build(keypoint_head=HEAD)
    wanted = truth([0, 0]) if labelled else [truth([0, 0])[1]] * 2  # unlabelled; no instance at all
    loss = model.losses(images(), wanted, seeds())["loss_keypoint"]
    assert loss.item() == 0
    loss.backward()
    assert model.roi.keypoint_head is not None
    assert all(p.grad is not None for p in model.roi.keypoint_head.parameters())


def test_other_losses_do_not_depend_on_keypoints() -> None:
    with_head = build(keypoint_head=HEAD)
    without = build()
    without.load_state_dict({k: v for k, v in with_head.state_dict().items() if "keypoint" not in k})
    ours = with_head.losses(images(), truth([2, 2]), seeds())
    for name, value in without.losses(images(), truth([2, 2]), seeds()).items():
        assert torch.equal(ours[name], value), name


def test_the_model_predicts_keypoints_inside_their_boxes() -> None:
    for found in detecting(keypoint_head=HEAD).predict(images()):
        assert found.keypoints is not None and found.keypoints.shape == (len(found), 2, 3)
        assert found.mask_probs is not None and len(found) > 0
        places, box = found.keypoints[..., :2], found.boxes[:, None]
        assert ((places >= box[..., :2]) & (places <= box[..., 2:].maximum(box[..., :2] + 1))).all()
    model = build(keypoint_head=HEAD, roi=replace(CONFIG.roi, score_threshold=1.0))
    (nothing, _) = model.predict(images())
    assert nothing.keypoints is not None and nothing.keypoints.shape == (0, 2, 3)


def test_targets_without_keypoints_are_told() -> None:
    with pytest.raises(ValueError, match="wants 2 keypoints an instance, the data have none"):
        build(keypoint_head=HEAD).losses(images(), targets([[10.0, 12.0, 80.0, 90.0]], []), seeds())


def test_rois_without_a_keypoint_are_left_out_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    keypoints = torch.tensor([[[5.0, 5, 0], [12, 5, 2]], [[5, 5, 0], [10, 10, 1]], [[1, 1, 2], [0, 0, 0]]])
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 4)
    assert show_keypoints(boxes, keypoints).tolist() == [False, True, True]

    model = build(keypoint_head=HEAD)
    (one, _) = targets([[10.0, 12.0, 80.0, 90.0], [5.0, 5.0, 60.0, 60.0]], [])
    points = torch.tensor([[[40.0, 50.0, 2], [50, 50, 1]], [[0, 0, 0], [0, 0, 0]]])
    wanted = [replace(one, keypoints=points)] * 2
    seen: list[int] = []
    assert model.roi.keypoint_head is not None
    model.roi.keypoint_head.register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    some = model.losses(images(), wanted, seeds())["loss_keypoint"]
    monkeypatch.setattr(interfaces, "show_keypoints", lambda boxes, _: torch.ones(len(boxes)).bool())
    every = model.losses(images(), wanted, seeds())["loss_keypoint"]
    assert 0 < seen[0] < seen[1]
    torch.testing.assert_close(some, every, rtol=1e-6, atol=0)
