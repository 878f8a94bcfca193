"""Pasted and encoded masks equal the dense ones, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn.inference.paste import encode_masks, paste_masks
from maskrcnn.structures.rle import decode, encode_changes, odd_positions, window_changes


def dense(probs: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The definition of "aligned": bilinear at the pixel centres, zeros outside; float64 [D, H, W]."""
    probs, boxes = probs.double(), boxes.double()
    sides = boxes[:, 2:] - boxes[:, :2]
    y = (torch.arange(height) + 0.5 - boxes[:, 1:2]) / sides[:, 1:2] * 2 - 1
    x = (torch.arange(width) + 0.5 - boxes[:, 0:1]) / sides[:, 0:1] * 2 - 1
    grid = torch.stack((x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), dim=-1)
    return torch.nn.functional.grid_sample(probs[:, None], grid, align_corners=False)[:, 0]


def random_case(count: int, side: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random probabilities and boxes from a fraction of a pixel to more than the image, many overhanging."""
    g = torch.Generator().manual_seed(seed)
    probs = torch.rand(count, side, side, generator=g)
    centre = torch.rand(count, 2, generator=g) * torch.tensor([width, height])
    sides = 0.1 + torch.rand(count, 2, generator=g) ** 3 * 1.5 * max(height, width)
    return probs, torch.cat((centre - sides / 2, centre + sides / 2), dim=1)


@pytest.mark.parametrize("side", [1, 7, 28])
def test_aligned_equals_dense_interpolation(side: int) -> None:
    probs, boxes = random_case(150, side, 61, 83)
    value = dense(probs, boxes, 61, 83)
    assert ((value - 0.5).abs() > 1e-9).all(), "a tie would make the comparison meaningless"
    pasted = torch.from_numpy(paste_masks(probs, boxes, 61, 83))
    assert pasted.any()
    assert torch.equal(pasted, value >= 0.5)


def test_aligned_equals_dense_interpolation_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskrcnn.inference.paste.COLUMNS_AT_ONCE", 50)
    probs, boxes = random_case(40, 14, 61, 83, seed=1)
    pasted = torch.from_numpy(paste_masks(probs, boxes, 61, 83))
    assert torch.equal(pasted, dense(probs, boxes, 61, 83) >= 0.5)


def test_torchvision_form_is_bit_equal_to_torchvision() -> None:
    probs, boxes = random_case(150, 28, 61, 83, seed=2)
    # torchvision itself fails on a box wholly outside; a flat box still draws a line of one pixel there.
    boxes = torch.cat((boxes, torch.tensor([[5.2, 6.3, 5.2, 6.3], [5.2, 6.3, 5.2, 30.0]])))
    probs = torch.cat((probs, torch.full((2, 28, 28), 0.9)))
    expected = paste_masks_in_image(probs[:, None], boxes, (61, 83))[:, 0] > 0.5
    assert expected[-1].any()
    assert torch.equal(torch.from_numpy(paste_masks(probs, boxes, 61, 83, "torchvision")), expected)


def test_the_two_forms_differ() -> None:
    probs, boxes = random_case(20, 28, 61, 83, seed=3)
    assert (paste_masks(probs, boxes, 61, 83) != paste_masks(probs, boxes, 61, 83, "torchvision")).any()


def test_a_full_mask_covers_exactly_the_pixels_whose_centres_lie_deep_in_the_box() -> None:
    # M = 28 over 56 px: cells of 2 px; bilinear with zeros outside passes 0.5 at the box's own edge.
    mask = paste_masks(torch.ones(1, 28, 28) * 0.999, torch.tensor([[10.0, 4.0, 66.0, 60.0]]), 70, 80)[0]
    inside = np.zeros((70, 80), dtype=bool)
    inside[4:60, 10:66] = True
    assert np.array_equal(mask, inside)


@pytest.mark.parametrize("paste", ["aligned", "torchvision", "smooth"])
@pytest.mark.parametrize(
    "box",
    [
        [-50.0, -50.0, -10.0, -10.0],  # wholly outside
        [200.0, 3.0, 210.0, 9.0],
        [9.0, 9.0, 3.0, 12.0],  # negative side
        [float("nan"), 0.0, 5.0, 5.0],
        [0.0, 0.0, float("inf"), 5.0],
    ],
)
def test_boxes_that_hold_no_pixel_give_empty_masks(paste: str, box: list[float]) -> None:
    (rle,) = encode_masks(torch.ones(1, 28, 28), torch.tensor([box]), 40, 50, paste)  # type: ignore[arg-type]
    assert rle["size"] == [40, 50]
    assert decode(rle).sum() == 0


def test_a_flat_box_is_empty_when_aligned() -> None:
    assert not paste_masks(torch.ones(1, 28, 28), torch.tensor([[5.0, 5.0, 5.0, 9.0]]), 20, 20).any()


@pytest.mark.parametrize("paste", ["aligned", "torchvision", "smooth"])
def test_no_detections(paste: str) -> None:
    assert encode_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 40, 50, paste) == []  # type: ignore[arg-type]
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 4, 5, paste).shape == (0, 4, 5)  # type: ignore[arg-type]


def test_the_string_is_pycocotools_own() -> None:
    probs, boxes = random_case(30, 28, 61, 83, seed=4)
    for rle, mask in zip(encode_masks(probs, boxes, 61, 83), paste_masks(probs, boxes, 61, 83), strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": [61, 83], "counts": expected["counts"].decode()}


def test_half_precision_probabilities() -> None:
    probs, boxes = random_case(10, 28, 61, 83, seed=5)
    half = probs.to(torch.bfloat16)
    assert encode_masks(half, boxes, 61, 83) == encode_masks(half.float(), boxes, 61, 83)


@pytest.mark.parametrize(
    ("probs", "boxes", "paste"),
    [((2, 28, 27), (2, 4), "aligned"), ((2, 28, 28), (3, 4), "aligned"), ((2, 28, 28), (2, 4), "nearest")],
)
def test_wrong_arguments_are_refused(probs: tuple[int, ...], boxes: tuple[int, ...], paste: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        encode_masks(torch.zeros(probs), torch.zeros(boxes), 10, 10, paste)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows_encode_like_the_whole_image(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(0, height - top)), data.draw(st.integers(0, width - left))
    bits = data.draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))
    window = np.array(bits, dtype=bool).reshape(h, w)
    whole = np.zeros((height, width), dtype=np.uint8)
    whole[top : top + h, left : left + w] = window
    (rle,) = encode_changes([window_changes(window, left, top, height)], height, width)
    assert rle["counts"] == coco_mask.encode(np.asfortranarray(whole))["counts"].decode()


def test_toggles_at_one_place_cancel() -> None:
    assert odd_positions(np.array([4, 2, 4, 9, 9, 9])).tolist() == [2, 9]
