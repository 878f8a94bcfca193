"""The geometry against the operators themselves: what each cell counts in each bin, and where a bin lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskrcnn.errors import UserError
from maskrcnn.layers import ROI_OPS, RoIAlign, RoIAlignLegacy, RoIOperator, RoIPool
from maskrcnn.studies.explain.placement import Cells, bins_of, to_cells, to_pixels
from maskrcnn.studies.explain.region import BoxOnMap, Region
from maskrcnn.studies.explain.written_ops import parse_op

OPS = [
    *(
        f"roi_pool:rounding={rounding},bins={bins}"
        for rounding in ("round", "floor", "sppnet")
        for bins in ("overlap", "partition", "truncate")
    ),
    "roi_warp",
    "roi_warp:sampling_ratio=2",
    "roi_align",
    "roi_align:sampling_ratio=1",
    "roi_align:aligned=false",
    "roi_align:aligned=false,sampling_ratio=3",
    "roi_align:samples=random,seed=7",
    "roi_align:samples=random,sampling_ratio=2,aligned=false",
    "roi_align_legacy",
    "roi_align_legacy:pooled=false",
    "prroi_pool",
    "roi_align:inclusive=true,aligned=false",
]
#: Box, stride, output size: a plain one; off the map on all sides; under a cell; wide; on half cells.
CASES = [
    ((11.3, 17.9, 71.2, 55.5), 8, (3, 4)),
    ((-20.0, -9.0, 130.0, 120.0), 8, (2, 3)),
    ((40.2, 41.1, 42.0, 43.5), 16, (2, 2)),
    ((3.0, 50.0, 95.0, 58.0), 8, (4, 2)),
    ((20.0, 12.0, 60.0, 52.0), 8, (5, 5)),
    ((88.0, 70.0, 120.0, 110.0), 4, (3, 3)),
]
IMAGE = (80, 100)


def run(op: RoIOperator, where: BoxOnMap, features: torch.Tensor) -> np.ndarray:
    """[C, H, W] -> [C, P, Q] in float64."""
    rois = torch.tensor([[0.0, *where.box]], dtype=torch.float64)
    out: np.ndarray = op.pool(features[None], rois, where.output_size, 1 / where.stride)[0].numpy()
    return out


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("text", OPS)
def test_every_cell_counts_what_the_operator_makes_of_it(
    text: str, case: tuple[tuple[float, float, float, float], int, tuple[int, int]]
) -> None:
    box, stride, output_size = case
    where = BoxOnMap(box, IMAGE, stride, output_size)
    region = Region(parse_op(text), where)
    H, W = where.map_size
    # One channel a cell, 1 there and 0 elsewhere: the output is that cell's weight (RoIPool: takes part).
    one_hot = torch.eye(H * W, dtype=torch.float64).view(H * W, H, W)
    got = run(region.op, where, one_hot).reshape(H, W, *output_size).transpose(2, 3, 0, 1)
    np.testing.assert_allclose(region.weights(), got, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(region.times_read() > 0, (got != 0).any((0, 1)))


@pytest.mark.parametrize("text", OPS)
def test_the_gradient_reaches_the_cells_that_are_read_and_no_others(text: str) -> None:
    where = BoxOnMap((11.3, 17.9, 71.2, 55.5), IMAGE, 8, (3, 4))
    region = Region(parse_op(text), where)
    H, W = where.map_size
    features = torch.zeros(1, 1, H, W, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0.0, *where.box]], dtype=torch.float64)
    region.op.pool(features, rois, where.output_size, 1 / where.stride).sum().backward()
    assert features.grad is not None
    touched = features.grad[0, 0].numpy() != 0
    if region.op.kind == "roi_pool":
        # All are equal, so the first cell of each bin takes its whole gradient: the bins' top left corners.
        expected = np.zeros((H, W), dtype=bool)
        for y0, y1 in zip(region.y.low[0], region.y.high[0], strict=True):
            for x0, x1 in zip(region.x.low[0], region.x.high[0], strict=True):
                if y1 > y0 and x1 > x0:
                    expected[int(y0), int(x0)] = True
        np.testing.assert_array_equal(touched, expected)
    else:
        np.testing.assert_array_equal(touched, region.times_read() > 0)


@pytest.mark.parametrize("text", [t for t in OPS if "random" not in t])
def test_bins_lie_where_a_ramp_is_read(text: str) -> None:
    # Far from the border, a ramp whose value is the cell's own coordinate is read at a bin's centre.
    where = BoxOnMap((101.3, 93.7, 170.9, 181.2), (320, 320), 8, (3, 4))
    region = Region(parse_op(text), where)
    H, W = where.map_size
    x = (torch.arange(W, dtype=torch.float64) + 0.5).expand(H, W)
    y = (torch.arange(H, dtype=torch.float64) + 0.5)[:, None].expand(H, W)
    got = run(region.op, where, torch.stack([y, x, -y, -x]))
    if (
        region.op.kind == "roi_pool"
    ):  # the maximum sits in the middle of the last cell, the minimum of the first
        got = np.stack([(got[0] - got[2]) / 2, (got[1] - got[3]) / 2])
    np.testing.assert_allclose(got[0], np.broadcast_to(region.y.centres[0][:, None], (3, 4)), atol=1e-10)
    np.testing.assert_allclose(got[1], np.broadcast_to(region.x.centres[0][None], (3, 4)), atol=1e-10)


def test_the_worked_example_of_the_literature() -> None:
    where = BoxOnMap((64, 64, 729, 729), (800, 800), 32)
    pool = Region(parse_op("roi_pool:rounding=floor,bins=truncate"), where)
    assert where.map_size == (25, 25)
    for axis in (pool.x, pool.y):
        assert (axis.region_low[0], axis.region_high[0]) == (2, 22)  # 665 / 32 = 20.78 -> 20
        np.testing.assert_array_equal(axis.high[0] - axis.low[0], 2)  # 20 / 7 = 2.857 -> 2
        assert axis.high[0, -1] == 16  # 6 of 20 cells, 192 px, are never seen
    align = Region(parse_op("roi_align"), where)
    np.testing.assert_allclose(align.x.high[0] - align.x.low[0], 665 / 32 / 7)
    np.testing.assert_allclose(align.offsets(0), 0, atol=1e-10)
    assert align.mean_offset() == pytest.approx(0, abs=1e-10)
    assert align.iou() == pytest.approx(1)
    # Bins of 64 px from 64 on, where bins of 95 px should be: centres off by -15.5, -46.5, ...
    np.testing.assert_allclose(pool.offsets(1), -15.5 - 31 * np.arange(7))
    assert pool.effective_box == (64, 64, 512, 512)
    assert pool.iou() == pytest.approx(448**2 / 665**2)


@pytest.mark.parametrize(
    ("text", "centre", "corner"),
    [
        ("roi_align", 0.0, -16.0),
        ("roi_align:aligned=false", 16.0, 0.0),
        ("prroi_pool", 16.0, 0.0),
    ],
)
def test_where_a_cell_sits_is_half_a_cell_and_no_more(text: str, centre: float, corner: float) -> None:
    for cells, offset in (("centre", centre), ("corner", corner)):
        where = BoxOnMap((70, 70, 300, 301), (800, 800), 32, cells=cells)
        np.testing.assert_allclose(Region(parse_op(text), where).offsets(1), offset, atol=1e-10)
    assert to_pixels(to_cells(np.array([37.0]), 32, "corner"), 32, "corner") == pytest.approx(37.0)


def test_samples_lie_in_their_bins_and_random_ones_obey_the_seed() -> None:
    where = BoxOnMap((64, 64, 729, 729), (800, 800), 32, (2, 3))
    regions = [Region(parse_op(f"roi_align:samples=random,seed={seed}"), where) for seed in (1, 1, 2)]
    points = [region.points() for region in regions]
    np.testing.assert_array_equal(points[0], points[1])
    assert (points[0] != points[2]).any()
    for axis, bins in ((0, regions[0].y), (1, regions[0].x)):
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        low, high = bins.low[0].reshape(shape), bins.high[0].reshape(shape)
        assert ((points[0][..., axis] >= low) & (points[0][..., axis] < high)).all()
    grid = Region(parse_op("roi_align:sampling_ratio=2"), where).points()
    assert grid.shape == (2, 3, 4, 2)
    assert regions[0].point_count == points[0].size // 2
    assert Region(parse_op("prroi_pool"), where).points().shape == (2, 3, 0, 2)


def test_many_boxes_at_once_are_the_boxes_one_by_one() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-10, 90, 40)
    high = low + rng.uniform(0.5, 60, 40)
    stride = rng.choice([4.0, 8.0, 16.0], 40)
    for text in OPS:
        op = parse_op(text)
        edges = [torch.from_numpy(v) for v in (low, high, 1 / stride)]
        together = bins_of(op.axis(*edges, 5, torch.full((40,), 12)))
        for k in range(40):
            alone = bins_of(op.axis(*(v[k : k + 1] for v in edges[:2]), edges[2][k], 5, 12))
            np.testing.assert_array_equal(together.low[k], alone.low[0])
            np.testing.assert_array_equal(together.high[k], alone.high[0])


@pytest.mark.parametrize(
    ("text", "op", "label"),
    [
        (
            "roi_pool:rounding=floor,bins=truncate",
            RoIPool(rounding="floor", bins="truncate"),
            "RoIPool (floor, truncate)",
        ),
        ("roi_align", RoIAlign(), "RoIAlign"),
        ("roi_align:aligned=false", RoIAlign(aligned=False), "RoIAlign (not aligned)"),
        (
            "roi_align:samples=random,seed=7",
            RoIAlign(samples="random", seed=7),
            "RoIAlign (random samples, seed 7)",
        ),
        (
            "roi_align:sampling_ratio=2,seed=7,inclusive=true",
            RoIAlign(sampling_ratio=2, seed=7, inclusive=True),
            "RoIAlign (2×2 samples, inclusive)",
        ),
        ("roi_align_legacy:pooled=false", RoIAlignLegacy(pooling="none"), "RoIAlign (legacy) (not pooled)"),
        ("roi_align_legacy:pooling=max", RoIAlignLegacy(pooling="max"), "RoIAlign (legacy) (max)"),
    ],
)
def test_an_operator_is_what_the_command_line_says(text: str, op: RoIOperator, label: str) -> None:
    """One class for the command line, for configs and for users; and its name for people."""
    assert parse_op(text) == op
    assert op.label == label
    assert type(op) is ROI_OPS.get(op.kind)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("roialign", "Did you mean 'roi_align'"),
        ("roi_align:rounding=floor", "has no option 'rounding'; it has sampling_ratio"),
        ("prroi_pool:seed=1", "it has none"),
        ("roi_pool:rounding=ceil", "one of round, floor, sppnet"),
        ("roi_align:sampling_ratio=-1", "whole number from 0 to 32"),
        ("roi_align:aligned", "write aligned=VALUE"),
        ("roi_align:aligned=yes", "aligned is one of true, false, not 'yes'"),
    ],
)
def test_a_misspelt_operator_is_told(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_op(text)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((5, 5, 5, 9), "no area"),
        ((900, 0, 950, 10), "outside the image of 800×800"),
        ((0, 0, float("nan"), 4), "finite"),
    ],
)
def test_a_box_that_makes_no_sense_is_told(box: tuple[float, float, float, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        BoxOnMap(box, (800, 800), 32)


@pytest.mark.parametrize(
    ("layer", "cells"),
    [
        (torch.nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False), "corner"),  # as in a ResNet
        (torch.nn.AvgPool2d(2), "centre"),  # as in VGG
    ],
)
def test_cells_sit_where_networks_put_them(layer: torch.nn.Module, cells: Cells) -> None:
    for parameter in layer.parameters():
        torch.nn.init.ones_(parameter)
    image = torch.zeros(1, 1, 96, 96, requires_grad=True)
    layer(layer(layer(image)))[0, 0, 5, 5].backward()
    assert image.grad is not None
    seen = (image.grad[0, 0].sum(0) != 0).nonzero()[:, 0]
    middle = float(seen.min() + seen.max() + 1) / 2
    assert float(to_pixels(np.array([5.5]), 8, cells)[0]) == pytest.approx(middle, abs=0.5)
