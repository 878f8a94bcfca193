"""Keypoint heat maps: cells, loss, decoding, each by hand and beside torchvision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import (
    heatmaps_to_keypoints,
    keypointrcnn_loss,
    keypoints_to_heatmap,
)

from maskrcnn.errors import ConfigError
from maskrcnn.modeling import interfaces
from maskrcnn.modeling.roi import keypoint_head
from maskrcnn.modeling.roi.keypoint_head import (
    ConvKeypointHead,
    ConvKeypointHeadConfig,
    decode_keypoints,
    keypoint_cells,
    keypoint_loss,
)
from maskrcnn.modeling.roi.targets import show_keypoints
from maskrcnn.structures import Targets
from tests.modeling.tiny import CONFIG, build, detecting, images, seeds, targets


def random_boxes(count: int, most: float, seed: int = 0) -> Tensor:
    """float64 [count, 4], sides from 0 to ``most``, many below 1 pixel and below 56."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 50
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2 * most
    return torch.cat((low, low + sides), 1)


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


@pytest.mark.parametrize("most", [3, 80, 200])
def test_decoding_as_torchvision(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are those of the same pixels; torchvision stores its results in float32."""
    monkeypatch.setattr(keypoint_head, "_NUMBERS_CPU", 2**18)
    boxes = random_boxes(8, most)
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(8, 3, 12, 12, generator=generator, dtype=torch.float64)
    found = decode_keypoints(maps, boxes)
    places, scores = heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(found[..., :2], places[..., :2].double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[..., 2], scores.double(), rtol=1e-6, atol=1e-6)

    monkeypatch.setattr(keypoint_head, "_NUMBERS_CPU", 1)  # every RoI in a pass of its own
    torch.testing.assert_close(decode_keypoints(maps, boxes), found, rtol=0, atol=1e-12)


def test_decoding_by_hand() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 2, 5] = 1
    maps[0, 1, 7, 0] = 1
    # 16 x 8 pixels: two columns a cell; the two columns of cell 5 tie but for rounding.
    found = decode_keypoints(maps, torch.tensor([[100.0, 50.0, 116.0, 58.0]]))
    assert found[0, 0, :2].tolist() in ([110.5, 52.5], [111.5, 52.5])
    assert found[0, 1, 1] == 57.5 and found[0, 1, 0] in (100.5, 101.5)
    # A side of 7.2 pixels is enlarged to 8 and shrunk back: pixel centres are 0.9 apart.
    found = decode_keypoints(maps, torch.tensor([[0.0, 0.0, 7.2, 7.2]]))
    torch.testing.assert_close(found[0, 0], torch.tensor([5.5 * 0.9, 2.5 * 0.9, 1.0]))


def test_probabilities_as_detectron2() -> None:
    """exp of each enlarged pixel over the sum of exp of the M x M cells, at the highest pixel."""
    boxes = random_boxes(12, 90)
    maps = torch.randn(12, 5, 56, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    found, logits = decode_keypoints(maps, boxes, "probability"), decode_keypoints(maps, boxes)
    assert torch.equal(found[..., :2], logits[..., :2])
    for box, own, points in zip(boxes, maps, found, strict=True):
        width, height = (box[2:] - box[:2]).clamp(min=1).ceil().long().tolist()
        large = F.interpolate(own[None], size=(height, width), mode="bicubic", align_corners=False)[0]
        wanted = (large.exp() / own.exp().sum((1, 2), keepdim=True)).flatten(1).amax(1)
        torch.testing.assert_close(points[:, 2], wanted)
    assert ((found[..., 2] > 0) & (found[..., 2] < 1)).all()
    raised = decode_keypoints(maps + 1000, boxes, "probability")  # no overflow on the way
    torch.testing.assert_close(raised, found)


def test_decoding_undoes_the_cells() -> None:
    """A heat map of one hot cell decodes to within a cell of the keypoint that it was made from."""
    boxes = torch.tensor([[3.0, 5.0, 61.5, 90.25]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    share = torch.rand(1, 17, 2, generator=generator, dtype=torch.float64)
    points = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    cells, valid = keypoint_cells(torch.cat((points, torch.ones(1, 17, 1)), -1), boxes, 56)
    assert valid.all()
    maps = torch.nn.functional.one_hot(cells, 56 * 56).double().unflatten(2, (56, 56))
    error = (decode_keypoints(maps, boxes)[..., :2] - points).abs()
    assert (error < torch.tensor([58.5, 85.25]) / 56).all()


def test_decoding_is_exact_under_autocast_and_of_nothing() -> None:
    generator = torch.Generator().manual_seed(4)
    maps, boxes = torch.randn(5, 2, 8, 8, generator=generator), random_boxes(5, 60).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = decode_keypoints(maps, boxes)
    assert torch.equal(inside, decode_keypoints(maps, boxes))
    assert decode_keypoints(maps[:0], boxes[:0]).shape == (0, 2, 3)
    assert decode_keypoints(maps.bfloat16(), boxes).dtype == torch.float32


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
