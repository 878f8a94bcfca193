"""NMS on masks, against masks that are pasted into an image and compared pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn.errors import ConfigError
from maskrcnn.inference.paste import paste_masks
from maskrcnn.modeling.roi.duplicates import ROUNDS, mask_iou, worse_duplicates
from maskrcnn.structures import box_iou
from tests.modeling import tiny

SIDE, SIZE = 28, 200


def bars(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Slanted bars, crowded: boxes [D, 4] and masks [D, M, M]."""
    draw = torch.Generator().manual_seed(seed)
    middle = 70 + 60 * torch.rand(count, 2, generator=draw)
    half = 20 + 25 * torch.rand(count, 2, generator=draw)
    boxes = torch.cat((middle - half, middle + half), dim=1)
    cells = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    slant = 0.6 + 0.4 * torch.rand(count, 1, 1, generator=draw)
    across = cells[None, None] * slant.sin() - cells[None, :, None] * slant.cos()
    return boxes, torch.sigmoid(20 * (0.35 - across.abs()))


def pasted_iou(boxes: Tensor, masks: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[D, D] of the pixels, in an image that is enlarged so that rasters hardly matter."""
    pixels = paste_masks(masks, boxes * 4, 4 * SIZE, 4 * SIZE).reshape(len(boxes), -1).astype(np.float32)
    common = pixels @ pixels.T
    area = pixels.sum(1)
    return common / np.maximum(area[:, None] + area[None] - common, 1)


def greedy(
    iou: np.ndarray[tuple[int, ...], np.dtype[np.float64]], labels: list[int], threshold: float
) -> list[bool]:
    """The slow twin: which are suppressed, the better ones first."""
    gone: list[bool] = []
    for i, label in enumerate(labels):
        better = [j for j in range(i) if not gone[j] and labels[j] == label]
        gone.append(any(iou[i, j] > threshold for j in better))
    return gone


def test_the_iou_is_that_of_the_pasted_masks() -> None:
    boxes, masks = bars(40, 0)
    first, second = torch.triu_indices(40, 40, 1)
    found = mask_iou(boxes[first], masks[first], boxes[second], masks[second])
    wanted = torch.from_numpy(pasted_iou(boxes, masks))[first, second]
    # A border crosses about 2 x 2 M of the M x M cells of a bar, each of which is half wrong at worst, and
    # either way: the standard error of such a count.
    assert (found - wanted).abs().max() <= 2 * math.sqrt(4 * SIDE) / (0.35 * SIDE**2)
    assert (wanted > 0.3).any() and (box_iou(boxes, boxes)[first, second] > 0.5).any()
    same = mask_iou(boxes, masks, boxes, masks)
    assert torch.allclose(same, torch.ones(40), atol=1e-6)


def every_iou(boxes: Tensor, masks: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[D, D]."""
    pairs = zip(boxes, masks, strict=True)
    rows = [mask_iou(b.expand_as(boxes), m.expand_as(masks), boxes, masks) for b, m in pairs]
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_the_same_detections_go_as_one_after_the_other(seed: int, threshold: float) -> None:
    boxes, masks = bars(30, seed)
    labels = [i % 2 for i in range(30)]
    iou = every_iou(boxes, masks)
    real = torch.ones(1, 30, dtype=torch.bool)
    gone = worse_duplicates(boxes[None], torch.tensor([labels]), masks[None], real, threshold)[0].tolist()
    assert gone == greedy(iou, labels, threshold) != greedy(iou, [0] * 30, threshold)
    assert any(gone) and not all(gone)


def test_a_chain_is_suppressed_as_greedily() -> None:
    """Each of a row overlaps the next: the second goes, so the third stays, and so on to the last."""
    count = ROUNDS
    left = torch.arange(count) * 4.0
    boxes = torch.stack((left, torch.zeros(count), left + 10, torch.full((count,), 10.0)), dim=1)
    masks = torch.ones(1, count, SIDE, SIDE)
    real = torch.ones(1, count, dtype=torch.bool)
    labels = torch.zeros(1, count, dtype=torch.int64)
    gone = worse_duplicates(boxes[None], labels, masks, real, 0.3)
    assert gone[0].tolist() == [i % 2 == 1 for i in range(count)]
    real[0, 0] = False  # then the second is the first
    assert worse_duplicates(boxes[None], labels, masks, real, 0.3)[0].tolist()[1:] == [
        i % 2 == 0 for i in range(1, count)
    ]
    assert not worse_duplicates(boxes[None], labels, masks.zero_(), real, 0.0).any()


def test_a_model_drops_duplicates_and_what_its_heads_say_of_them() -> None:
    roi = replace(tiny.CONFIG.roi, score_threshold=0.0, nms_threshold=0.9, max_detections=40)
    plain, strict = (tiny.detecting(roi=replace(roi, mask_nms=m)).eval() for m in (None, 0.3))
    strict.load_state_dict(plain.state_dict())
    every, kept = (m.predict(tiny.images())[0] for m in (plain, strict))
    assert every.mask_probs is not None and kept.mask_probs is not None
    boxes, masks = every.boxes, every.mask_probs
    iou = every_iou(boxes, masks)
    rows = [i for i, gone in enumerate(greedy(iou, every.labels.tolist(), 0.3)) if not gone]
    assert 0 < len(kept) < len(every)
    assert boxes[rows].equal(kept.boxes) and masks[rows].equal(kept.mask_probs)


def test_a_model_without_masks_is_told() -> None:
    with pytest.raises(ConfigError, match=r"model.roi.mask_nms compares masks.*no mask head; set.*null"):
        tiny.build(mask_head=None, roi=replace(tiny.CONFIG.roi, mask_nms=0.5))
    tiny.build(mask_head=None, roi=replace(tiny.CONFIG.roi, mask_nms=None))


def test_an_image_without_detections_suppresses_nothing() -> None:
    real = torch.zeros(1, 0, dtype=torch.bool)
    none = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, SIDE, SIDE)
    assert worse_duplicates(*none, real, 0.5).shape == (1, 0)
