"""Each way to paste a mask, by standard operators beside ``inference.paste``."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from maskrcnn.inference.paste import Paste, paste_masks
from maskrcnn.run.export.network import Told
from maskrcnn.run.export.onnx_parts import behind, network_names
from maskrcnn.run.export.onnx_pastes import PASTING_WAYS
from tests.run.export.runtimes import session

TOLD = {"mask_probs": Told((28, 28), torch.float32)}


def test_every_way_is_here() -> None:
    assert set(PASTING_WAYS) == set(get_args(Paste))


@pytest.mark.parametrize("way", sorted(PASTING_WAYS))
def test_masks_are_those_of_the_way(way: Paste) -> None:
    """Over boxes that overhang the image, are small, or lie on whole pixels, whose borders are halves."""
    generator = torch.Generator().manual_seed(0)
    count, height, width = 24, 90, 130
    corners = torch.rand(count, 2, generator=generator) * 110 - 15
    sides = 2 + torch.rand(count, 2, generator=generator) * 80
    boxes = torch.cat((corners, corners + sides), dim=1)
    boxes[::6] = boxes[::6].round()
    noise = torch.randn(count, 1, 28, 28, generator=generator)
    masks = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[:, 0].mul(8).sigmoid()
    masks[3] = 1.0
    values = (boxes, torch.linspace(1, 0.1, count), torch.zeros(count, dtype=torch.int64))
    rows = (*values, torch.ones(count, dtype=torch.bool), masks)
    feed = dict(zip(network_names(TOLD), (row[None].numpy() for row in rows), strict=True))
    frames, image = np.ones(4, dtype=np.float32), np.zeros((1, height, width, 3), dtype=np.uint8)
    run = session(behind(TOLD, count, paste=PASTING_WAYS[way]))
    found = run.run(["masks"], {**feed, "frames": frames, "image": image})[0]
    shown = (boxes[:, :2] < torch.tensor([width, height])).all(1) & (boxes[:, 2:] > 0).all(1)
    wanted = paste_masks(masks[shown], boxes[shown], height, width, way)
    assert found.shape == wanted.shape and wanted.any(axis=(1, 2)).sum() > 15
    off = (found != wanted).sum(axis=(1, 2))
    assert off.max() <= 2 and off.sum() <= 4  # where it rounds to the threshold
    others = [paste_masks(masks[shown], boxes[shown], height, width, other) for other in PASTING_WAYS]
    assert sum((found != other).sum() > 100 for other in others) == len(others) - 1
