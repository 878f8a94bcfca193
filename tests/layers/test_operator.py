"""One dataclass an operator: as a config, as a module of a user's, and as what a model pools with."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
import torchvision

from maskrcnn.config import dump, loads
from maskrcnn.config.schema import fields_of
from maskrcnn.layers import ROI_OPS, RoIAlign, RoIOperator, RoIPool, roi_align
from maskrcnn.recipe import Recipe
from tests.layers.cases import awkward_rois, features

NAMES = ["prroi_pool", "roi_align", "roi_align_legacy", "roi_pool", "roi_warp"]


@pytest.mark.parametrize("name", NAMES)
def test_the_registered_class_is_the_operator(name: str) -> None:
    cls = ROI_OPS.get(name)
    assert issubclass(cls, RoIOperator) and cls.tells_geometry()
    op = cls()
    assert isinstance(op, RoIOperator) and op.kind == name
    bound = op.build(3)
    assert type(bound) is cls and bound.output_size == 3 and bound.build(5).build(3) == bound
    assert set(fields_of(cls)) == {f.name for f in fields(op)} - {"output_size", "spatial_scale"}
    with pytest.raises(FrozenInstanceError):
        op.output_size = 7  # type: ignore[misc]


def test_with_a_scale_the_constructor_is_torchvisions() -> None:
    x, rois = features((2, 5, 13, 18)).detach(), awkward_rois(2, 52, 72)
    for args in ((7, 0.25, 2), (7, 0.25, 2, True), (7, 0.25, 0, False)):
        ours, theirs = RoIAlign(*args), torchvision.ops.RoIAlign(*args)
        assert ours.aligned == theirs.aligned
        torch.testing.assert_close(ours(x, rois), theirs(x, rois), rtol=1e-5, atol=1e-5)
    assert torch.equal(RoIPool(3, 0.25)(x, rois), torchvision.ops.RoIPool(3, 0.25)(x, rois))
    # Without one it is a model's, and a call gives the scale.
    model = RoIAlign(7, sampling_ratio=2)
    assert model.aligned and model == RoIAlign(sampling_ratio=2).build(7)
    assert torch.equal(model(x, rois, scales=0.25), roi_align(x, rois, 7, 0.25, 2, True))


def test_a_size_or_a_scale_that_is_missing_is_told() -> None:
    x, rois = features((1, 1, 4, 4)), torch.tensor([[0.0, 0, 0, 2, 2]])
    with pytest.raises(ValueError, match="RoIAlign: output_size is not set, as in RoIAlign\\(7, 1 / 16\\)"):
        RoIAlign()(x, rois, scales=1.0)
    with pytest.raises(ValueError, match="RoIPool: spatial_scale is not set"):
        RoIPool(7)(x, rois)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"aggregation": "mean"}, "aggregation must be one of avg, max"),
        ({"samples": "all"}, "samples must be one of grid, random"),
        ({"seed": -1}, r"seed must be in \[0, 4,294,967,295\], got -1"),
        ({"sampling_ratio": 5000}, "sampling_ratio must be at most 4,096, got 5000"),
    ],
)
def test_an_option_out_of_range_is_told_when_it_is_made(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RoIAlign(**options)  # type: ignore[arg-type]


def test_inclusive_takes_a_pixel_off_boxes_of_either_form() -> None:
    x, rois = features((2, 3, 12, 14)).detach(), awkward_rois(2, 48, 56)
    rois = rois[rois[:, 0].argsort(stable=True)]
    lists = [rois[rois[:, 0] == i, 1:] for i in (0, 1)]
    op = RoIAlign(3, inclusive=True)
    less = rois - torch.tensor([0.0, 0, 0, 1, 1])
    assert torch.equal(op(x, rois, scales=0.25), roi_align(x, less, 3, 0.25, 0, True))
    assert torch.equal(op(x, lists, scales=0.25), op(x, rois, scales=0.25))


def test_yaml_neither_sets_nor_shows_what_a_model_decides() -> None:
    text = "model: {roi_op: {type: roi_align, sampling_ratio: 2}}\n"
    data = "data: {train: {type: coco, images: i, annotations: a}}\n"
    recipe = loads(Recipe, text + data)
    assert recipe.model.roi_op == RoIAlign(sampling_ratio=2)
    shown = dump(recipe)
    assert "    sampling_ratio: 2\n" in shown
    assert "output_size" not in shown and "spatial_scale" not in shown
    assert loads(Recipe, shown) == recipe
