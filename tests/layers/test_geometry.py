"""What an operator says it reads, by hand and against what it computes."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.layers import PrRoIPool, RoIAlign, RoIAlignLegacy, RoIOperator, RoIPool, RoIWarp
from maskrcnn.layers.geometry import (
    ALIGNED,
    PLAIN,
    SampledAxis,
    bilinear_rows,
    on_map,
    round_half_away,
    sampled_axis,
    taps,
)
from tests.layers.cases import awkward_rois, reference_twins

OPERATORS = [
    RoIAlign(),
    RoIAlign(sampling_ratio=2, aligned=False, inclusive=True),
    RoIAlign(sampling_ratio=2, samples="random", seed=9),
    RoIWarp(),
    RoIPool(rounding="floor", bins="partition"),
    PrRoIPool(),
    RoIAlignLegacy(),
    RoIAlignLegacy(pooling="none"),
]


@pytest.mark.parametrize("twins", [False, True], ids=["kernels", "twins"])
@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.label)
def test_weights_are_what_one_hot_maps_are_pooled_with(op: RoIOperator, twins: bool) -> None:
    """For several boxes at once, awkward ones too."""
    rois = awkward_rois(1, 36, 44, torch.float64)
    maps = torch.eye(9 * 11, dtype=torch.float64).view(1, 99, 9, 11)
    where = op.geometry(rois[:, 1:], 0.25, (2, 3), (9, 11))
    if twins:
        with reference_twins():
            pooled = op.pool(maps, rois, (2, 3), 0.25)
    else:
        pooled = op.pool(maps, rois, (2, 3), 0.25)
    for k in range(len(rois)):
        told = where.weights(k, 9, 11)
        torch.testing.assert_close(told, pooled[k].permute(1, 2, 0).view(2, 3, 9, 11), rtol=0, atol=1e-12)
        read = (pooled[k] != 0).any(dim=(1, 2)).view(9, 11)
        assert torch.equal(where.times_read(k, 9, 11) > 0, read)


def test_edges_by_hand() -> None:
    low, high = torch.tensor([16.0]), torch.tensor([64.0])  # 1 to 4 cells at stride 16
    aligned = sampled_axis(low, high, 1 / 16, 3, ALIGNED, 2)
    assert [e.tolist() for e in aligned.edges] == [[[1.0, 2.0, 3.0]], [[2.0, 3.0, 4.0]]]
    assert [e.item() for e in aligned.region] == [1.0, 4.0]
    assert aligned.points(0).tolist() == [
        [0.75, 1.25],
        [1.75, 2.25],
        [2.75, 3.25],
    ]  # indices: half a cell less
    plain = sampled_axis(low, high, 1 / 16, 3, PLAIN, 0)
    assert plain.edges[0].tolist() == [[1.5, 2.5, 3.5]] and plain.count(0) == 1
    warp = RoIWarp().axis(low, high, 1 / 16, 4)
    assert [e.item() for e in warp.region] == [1.0, 5.0] and warp.rounds
    pool = RoIPool().axis(low, high, 1 / 16, 2, length=4)
    assert [e.tolist() for e in pool.edges] == [[[1.0, 3.0]], [[3.0, 4.0]]]  # 1 to 5, cut at the map's 4
    corners = RoIAlignLegacy().axis(low, high, 1 / 16, 4)
    assert corners.edges[0].tolist() == [[1.5, 2.5, 3.5, 4.5]] and corners.count(0) == 2


def test_points_off_the_map_are_left_out_and_no_others() -> None:
    axis = sampled_axis(torch.tensor([-50.0]), torch.tensor([90.0]), 1.0, 5, ALIGNED, 0)
    assert isinstance(axis, SampledAxis)
    everything = axis.points(0)
    for points, kept in zip(everything, axis.points_on_map(0, 20), strict=True):
        assert torch.equal(points[on_map(points, 20)], kept)
    far = sampled_axis(*torch.tensor([[-3e9], [3e9]]).double(), 1.0, 2, ALIGNED, 0)
    assert far.count(0) == 2**30
    assert 0 < sum(len(p) for p in far.points_on_map(0, 20)) <= 22


def test_taps_clamp_at_the_border() -> None:
    position = torch.tensor([-1.0, -0.25, 0.0, 1.75, 3.0, 4.0, 4.5])
    low, high, fraction = taps(position, 4)
    assert low.tolist() == [0, 0, 0, 1, 3, 3, 3] and high.tolist() == [1, 1, 1, 2, 3, 3, 3]
    assert fraction.tolist() == [0, 0, 0, 0.75, 0, 0, 0]
    rows = bilinear_rows(position, 4)
    assert rows.sum(1).tolist() == [1, 1, 1, 1, 1, 1, 0]
    assert rows[3].tolist() == [0, 0.25, 0.75, 0]
    assert round_half_away(torch.tensor([-2.5, -0.5, 0.5, 1.5])).tolist() == [-3, -1, 1, 2]
