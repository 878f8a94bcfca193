"""Keypoints out of heat maps, by hand and beside the peers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from maskrcnn.modeling.roi import keypoint_decode
from maskrcnn.modeling.roi.keypoint_decode import decode_keypoints, decode_traced
from maskrcnn.modeling.roi.keypoint_head import keypoint_cells


def random_boxes(count: int, most: float, seed: int = 0) -> Tensor:
    """float64 [count, 4], sides from 0 to ``most``, many below 1 pixel and below 56."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 50
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2 * most
    return torch.cat((low, low + sides), 1)


@pytest.mark.parametrize("most", [3, 80, 200])
def test_decoding_as_torchvision(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are those of the same pixels; torchvision stores its results in float32."""
    monkeypatch.setattr(keypoint_decode, "_NUMBERS_CPU", 2**18)
    boxes = random_boxes(8, most)
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(8, 3, 12, 12, generator=generator, dtype=torch.float64)
    found = decode_keypoints(maps, boxes)
    places, scores = heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(found[..., :2], places[..., :2].double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[..., 2], scores.double(), rtol=1e-6, atol=1e-6)

    monkeypatch.setattr(keypoint_decode, "_NUMBERS_CPU", 1)  # every RoI in a pass of its own
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


@pytest.mark.parametrize("probability", [False, True])
def test_the_traced_operator_is_the_same(probability: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    maps, boxes = torch.randn(7, 2, 8, 8, generator=generator), random_boxes(7, 60).float()
    found = decode_traced(maps, boxes, probability)
    assert torch.equal(found, decode_keypoints(maps, boxes, "probability" if probability else "logit"))
    torch.library.opcheck(
        torch.ops.maskrcnn.decode_keypoints.default,
        (maps, boxes, probability),
        test_utils=("test_schema", "test_faketensor"),
    )
