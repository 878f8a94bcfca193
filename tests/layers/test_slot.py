"""Every RoI operator is reachable by ``model.roi_op: {type: ...}`` and is the function of its name."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.layers import (
    RoIAlignAvg,
    RoIAlignLegacy,
    RoIAlignMax,
    RoIWarp,
    prroi_pool,
    roi_align,
    roi_align_legacy,
    roi_pool,
    roi_warp,
)
from maskrcnn.modeling.interfaces import ROI_OPS
from tests.layers.cases import awkward_rois, features

SCALES = [1 / 4, 1 / 8]
EXPECTED = {
    "roi_align": lambda maps, rois, levels: roi_align(maps, rois, 3, SCALES, 0, True, levels=levels),
    "roi_pool": lambda maps, rois, levels: roi_pool(maps, rois, 3, SCALES, levels=levels),
    "roi_warp": lambda maps, rois, levels: roi_warp(maps, rois, 3, SCALES, levels=levels),
    "prroi_pool": lambda maps, rois, levels: prroi_pool(maps, rois, 3, SCALES, levels=levels),
    "roi_align_legacy": lambda maps, rois, levels: RoIAlignAvg(3, 3, SCALES)(maps, rois, levels),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_default_config_is_the_operator(name: str) -> None:
    maps = [features((2, 3, 12, 14)).detach(), features((2, 3, 6, 7), seed=1).detach()]
    rois = awkward_rois(2, 48, 56)
    levels = torch.arange(len(rois)) % 2
    module = ROI_OPS.get(name)().build(3)
    assert torch.equal(module(maps, rois, levels, SCALES), EXPECTED[name](maps, rois, levels))


def test_options_reach_the_operator() -> None:
    maps = [features((2, 3, 12, 14)).detach(), features((2, 3, 6, 7), seed=1).detach()]
    rois = awkward_rois(2, 48, 56)
    levels = torch.arange(len(rois)) % 2
    warp = RoIWarp(sampling_ratio=2, aggregation="max").build(3)
    assert torch.equal(
        warp(maps, rois, levels, SCALES),
        roi_warp(maps, rois, 3, SCALES, 2, aggregation="max", levels=levels),
    )
    largest = RoIAlignLegacy(pooling="max").build(3)
    assert torch.equal(largest(maps, rois, levels, SCALES), RoIAlignMax(3, 3, SCALES)(maps, rois, levels))
    plain = RoIAlignLegacy(pooling="none").build(3)
    assert torch.equal(
        plain(maps, rois, levels, SCALES), roi_align_legacy(maps, rois, 3, SCALES, levels=levels)
    )
