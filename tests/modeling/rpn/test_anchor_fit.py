"""Anchors held against boxes, and fitted to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskrcnn.modeling.rpn.anchor_fit import REACHED, anchor_ious, anchor_recall, fit_anchors
from maskrcnn.modeling.rpn.anchors import AnchorConfig

STRIDES = (4, 8, 16, 32, 64)


def some_boxes(count: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """xyxy in an image of 512 x 512, square roots of areas from ``low`` to ``high``."""
    rng = np.random.default_rng(seed)
    side, ratio = np.exp(rng.uniform(np.log(low), np.log(high), count)), np.exp(rng.normal(0, 0.3, count))
    width, height = side / np.sqrt(ratio), side * np.sqrt(ratio)
    x, y = rng.uniform(100, 400, (2, count))
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)


def base(config: AnchorConfig) -> list[np.ndarray]:
    return [level.numpy() for level in config.build(STRIDES).base]


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_nearest_cells_are_as_good_as_all(offset: float) -> None:
    config = AnchorConfig(sizes=((16.0,), (32.0,), (64.0,), (128.0,), (256.0,)), offset=offset)
    boxes = some_boxes(60, 12, 200)
    features = [torch.zeros(1, 1, 512 // s, 512 // s) for s in STRIDES]
    every = torch.cat(config.build(STRIDES)(features, (512, 512), torch.float64))
    a, b = torch.from_numpy(boxes)[:, None], every[None]
    shared = (
        (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    )
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    expected = (shared / (areas - shared)).max(1).values.numpy()
    found = anchor_ious(boxes, base(config), STRIDES, offset).max(1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_small_anchors_of_a_coarse_level_miss_boxes_of_their_shape() -> None:
    boxes = some_boxes(200, 8, 8)
    shape = [np.array([[-4.0, -4, 4, 4]])]
    assert anchor_recall(boxes, shape, [4]) > 2 * anchor_recall(boxes, shape, [64])
    assert anchor_recall(np.zeros((0, 4)), shape, [4]) == 1.0


def test_fitted_anchors_reach_more_and_go_into_a_config() -> None:
    boxes = some_boxes(3000, 8, 60)
    own = anchor_recall(boxes, base(AnchorConfig()), STRIDES)
    fit = fit_anchors(boxes, STRIDES)
    assert fit.recall > own + 0.3
    fitted = AnchorConfig(sizes=fit.sizes, ratios=fit.ratios)
    assert anchor_recall(boxes, base(fitted), STRIDES) == pytest.approx(fit.recall, abs=0.02)
    assert all(size >= stride for (size,), stride in zip(fit.sizes, STRIDES, strict=True))
    assert list(fit.sizes) == sorted(fit.sizes)
    assert fit.written().startswith("{sizes: [[") and f"ratios: [{fit.ratios[0]:g}, " in fit.written()


def test_one_box_or_boxes_of_one_shape_can_be_fitted() -> None:
    assert fit_anchors(np.array([[0.0, 0, 30, 30]]), STRIDES).recall == 1.0
    assert fit_anchors(np.tile([[0.0, 0, 30, 60]], (50, 1)), STRIDES, ratios=2, sizes=2).recall == 1.0


def test_two_sizes_a_level_and_a_single_level() -> None:
    fit = fit_anchors(some_boxes(500, 16, 200), [16], ratios=2, sizes=5)
    assert [len(level) for level in fit.sizes] == [5] and len(fit.ratios) == 2
    assert REACHED == 0.5 and fit.recall > 0.6
