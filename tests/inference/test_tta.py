"""Test-time augmentation: views and back, one answer out of several, through a model and from a config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.config import loads
from maskrcnn.errors import ConfigError
from maskrcnn.inference.loop import predict_batches, predicting
from maskrcnn.inference.tta import AugmentedModel, View, fused
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.interfaces import RoIFeatures
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.modeling.roi.rois import DetectedRoIs
from maskrcnn.recipe import EvalConfig, TTAConfig
from maskrcnn.structures import Batch, Detections, ImageInfo
from tests.modeling import tiny

PLAIN = TTAConfig(flips=(), scales=(1.0,))
VIEWS = [View(scale, flips) for scale in (0.5, 1.0, 1.7) for flips in ("", "h", "v", "hv")]


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_boxes_follow_what_they_frame(view: View) -> None:
    image = torch.zeros(3, 40, 60)
    image[:, 8:20, 10:40] = 200
    seen = view.of_image(image)
    assert seen.shape[-2:] == (round(40 * view.scale), round(60 * view.scale))
    box = torch.tensor([[10.0, 8.0, 40.0, 20.0]])
    there = view.of_boxes(box, (40, 60), seen.shape[-2:])
    rows, columns = (seen[0] >= 100).nonzero().unbind(1)
    framed = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
    assert (there[0] - framed).abs().max() <= 0.5  # the raster of the view
    assert torch.allclose(view.back(there, (40, 60), seen.shape[-2:]), box, atol=1e-4)


def test_masks_are_mirrored_back() -> None:
    mask = torch.rand(2, 5, 5)
    for view in VIEWS:
        assert view.of_masks(view.of_masks(mask)).equal(mask)
    assert View(2.0, "h").of_masks(mask).equal(mask.flip(2)) and View(1.0, "v").of_masks(mask).equal(
        mask.flip(1)
    )


def test_each_view_has_one_say() -> None:
    """Two views saw the first object, one of them twice; one saw the second; classes are apart."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [0, 1, 10, 11], [50, 50, 60, 60], [0, 0, 10, 10]])
    scores = torch.tensor([0.9, 0.6, 0.5, 0.8, 0.7])
    groups, of_view = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 1, 1, 1, 1])
    kept = torch.tensor([0, 3, 4])
    found, score = fused(boxes, scores, groups, of_view, kept, 2, 0.5)
    assert score.tolist() == pytest.approx([(0.9 + 0.6) / 2, 0.8 / 2, 0.7 / 2])
    assert found[0].tolist() == pytest.approx([0, 0, 10, (0.9 * 10 + 0.6 * 12) / 1.5])
    assert found[1:].equal(boxes[3:])
    empty = torch.zeros(0, dtype=torch.int64)
    nothing = fused(torch.zeros(0, 4), torch.zeros(0), empty, empty, empty, 2, 0.5)
    assert nothing[0].shape == (0, 4) and nothing[1].shape == (0,)


def same(ours: Detections, theirs: Detections, tolerance: float = 1e-4) -> None:
    assert len(ours) == len(theirs) > 0 and ours.labels.equal(theirs.labels)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=tolerance * 100)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=tolerance)
    assert ours.mask_probs is not None and theirs.mask_probs is not None
    torch.testing.assert_close(ours.mask_probs, theirs.mask_probs, rtol=0, atol=tolerance)


def model(**changes: Any) -> MaskRCNN:
    return tiny.detecting(roi=replace(tiny.CONFIG.roi, max_detections=20, **changes)).eval()


def test_the_plain_view_alone_is_the_model_itself() -> None:
    """But for the mean of boxes with themselves."""
    images = tiny.images()
    for plain in (model(), model(mask_nms=0.3, nms_threshold=0.8)):
        for ours, image in zip(AugmentedModel(plain, PLAIN).predict(images), images, strict=True):
            same(ours, plain.predict([image])[0])


@pytest.mark.parametrize("flip", ["h", "v", "hv"])
def test_a_mirrored_image_is_answered_by_the_mirror_image(flip: str) -> None:
    """With a view and its mirror image, it is all one which of the two is given."""
    augmented = AugmentedModel(model(), TTAConfig(flips=(flip,), scales=(1.0,)))  # type: ignore[arg-type]
    image = tiny.images(sizes=((96, 128),))[0]  # no padding, which only one side has
    mirror = View(1.0, flip)
    (ours,), (theirs,) = augmented.predict([image]), augmented.predict([mirror.of_image(image)])
    assert theirs.mask_probs is not None
    back = replace(
        theirs,
        boxes=mirror.back(theirs.boxes, (96, 128), (96, 128)),
        mask_probs=mirror.of_masks(theirs.mask_probs),
    )
    same(ours, back, 1e-3)


def test_masks_are_the_mean_over_the_views() -> None:
    plain = model(score_threshold=0.0)
    views = TTAConfig(flips=("h",), scales=(1.0,))
    image = tiny.images(sizes=((96, 128),))[0]
    (found,) = AugmentedModel(plain, views).predict([image])
    of_views = [masks_of(plain, View(1.0, flip), image, found) for flip in ("", "h")]
    assert found.mask_probs is not None
    torch.testing.assert_close(found.mask_probs, torch.stack(of_views).mean(0), rtol=0, atol=1e-5)
    assert (of_views[0] - of_views[1]).abs().max() > 1e-3


def masks_of(plain: MaskRCNN, view: View, image: Tensor, found: Detections) -> Tensor:
    """What the mask head says of boxes in a view, asked for by hand."""
    batch = plain.preprocess([view.of_image(image)])
    maps = RoIFeatures(plain.features(batch.tensor))
    boxes = view.of_boxes(found.boxes, image.shape[-2:], image.shape[-2:])
    rois = DetectedRoIs(
        torch.cat((boxes.new_zeros(len(boxes), 1), boxes), 1), found.labels, None, found.scores
    )
    assert plain.roi.mask_head is not None
    with torch.no_grad():
        return view.of_masks(plain.roi.mask_head.predict(maps, rois))


def test_further_heads_and_given_proposals() -> None:
    keypoints = ConvKeypointHeadConfig(num_keypoints=2, convs=1, width=8, pool_size=7)
    plain = tiny.detecting(keypoint_head=keypoints).eval()
    views = TTAConfig(flips=("h", "v"), scales=(1.0, 1.5))
    (found,) = AugmentedModel(plain, views).predict(tiny.images()[:1])
    assert found.keypoints is not None and found.keypoints.shape == (len(found), 2, 3)
    margin = 0.05 * (found.boxes[:, 2:] - found.boxes[:, :2])[:, None] + 1
    assert (found.keypoints[..., :2] >= found.boxes[:, None, :2] - margin).all()
    assert (found.keypoints[..., :2] <= found.boxes[:, None, 2:] + margin).all()
    fast = tiny.detecting(rpn=None).eval()
    proposals = [torch.tensor([[5.0, 5.0, 60.0, 50.0], [30.0, 20.0, 90.0, 90.0]])]
    (given,) = AugmentedModel(fast, views).predict(tiny.images()[:1], proposals)
    assert 0 < len(given) <= tiny.CONFIG.roi.max_detections
    with pytest.raises(ValueError, match="needs proposals"):
        AugmentedModel(fast, views).predict(tiny.images()[:1])


def test_scores_of_few_views_fall_below_the_threshold_and_the_cap_holds() -> None:
    plain = model(score_threshold=0.3)
    (found,) = AugmentedModel(plain, TTAConfig(flips=("h", "v"), scales=(0.7, 1.0))).predict(
        tiny.images()[:1]
    )
    assert (found.scores > 0.3).all() and len(found) <= 20
    assert found.scores.equal(found.scores.sort(descending=True).values)


def test_a_loop_predicts_by_views_where_it_is_told() -> None:
    plain = model()
    views = TTAConfig(flips=("h",), scales=(1.0,))
    image = tiny.images()[0]
    batch = Batch([image], [ImageInfo(1, "", *image.shape[1:])], None)
    ((_, (ours,)),) = predict_batches(plain, [batch], "cpu", tta=views)
    same(ours, AugmentedModel(plain, views).predict([image])[0], 1e-6)
    assert isinstance(predicting(plain, tta=views), AugmentedModel) and predicting(plain) is plain


def test_the_keys() -> None:
    found = loads(EvalConfig, "tta: {flips: [h, v], scales: [1.0, 1.25]}", "x").tta
    assert found == TTAConfig(flips=("h", "v"), scales=(1.0, 1.25)) and EvalConfig().tta is None
    assert len(AugmentedModel(model(), found).views) == 6
    for text, told in {
        "tta: {scales: [0]}": "scales.0 must be >= 0.1",
        "tta: {scales: []}": "scales must name at least one",
        "tta: {flips: [x]}": "flips",
    }.items():
        with pytest.raises(ConfigError, match=told):
            loads(EvalConfig, text, "x")
