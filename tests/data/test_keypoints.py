"""Keypoints from the json through the transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.data import CocoConfig, CocoDataset, RawSample, SyntheticConfig, apply_transforms
from maskrcnn.data.transforms.basic import HorizontalFlip, Rotate90, VerticalFlip
from maskrcnn.data.transforms.jitter import LargeScaleJitter
from maskrcnn.data.transforms.moving import crop_to, resize_to
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.structures import COCO_PERSON, ImageInfo, KeypointSchema, Targets
from tests.data.files import coco, write_coco


def with_keypoints() -> dict[str, Any]:
    """Class 90 has three keypoints; every image's first instance (a square at x 5..25) carries them."""
    content = coco()
    content["categories"][0]["keypoints"] = ["nose", "left_eye", "right_eye"]
    content["categories"][0]["skeleton"] = [[1, 2], [1, 3]]
    for annotation in content["annotations"][::2]:
        annotation["keypoints"] = [6, 5, 2, 20, 8, 1, 0, 0, 0]
    return content


def build(tmp_path: Path, content: dict[str, Any], **options: Any) -> CocoDataset:
    images, annotations = write_coco(tmp_path, content)
    config = CocoConfig(images=images, annotations=annotations, keypoints=True, **options)
    return config.build(training=True)


def test_read_as_pixel_centres(tmp_path: Path) -> None:
    dataset = build(tmp_path, with_keypoints())
    assert dataset.keypoints == KeypointSchema(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)))
    found = dataset.load(1).targets.keypoints
    assert found is not None and found.dtype == torch.float32
    assert found.tolist() == [[[6.5, 5.5, 2], [20.5, 8.5, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    found = build(tmp_path, with_keypoints(), keypoint_offset=0.0).load(1).targets.keypoints
    assert found is not None and found[0, 0].tolist() == [6, 5, 2]


def test_without_asking_there_are_none(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, with_keypoints())
    dataset = CocoConfig(images=images, annotations=annotations).build(training=True)
    assert dataset.keypoints is None
    assert dataset.load(0).targets.keypoints is None


def test_training_leaves_out_images_without_labelled_keypoints(tmp_path: Path) -> None:
    content = with_keypoints()
    content["annotations"][0]["keypoints"] = [0] * 9
    del content["annotations"][2]["keypoints"]
    content["annotations"][4]["keypoints"] = [1, 1, 2, 0, 0, 0, 0, 0, 0]
    assert build(tmp_path, content).image_ids.tolist() == [30, 40]
    assert build(tmp_path, content, min_keypoints=2).image_ids.tolist() == [40]
    assert len(build(tmp_path, content, min_keypoints=0)) == 4
    assert len(build(tmp_path, content, filter_empty=False)) == 4
    images, annotations = write_coco(tmp_path, content)
    assert len(CocoDataset(images, annotations, keypoints=True)) == 4  # evaluation
    with pytest.raises(DataError, match="no images with at least 9 labelled keypoints"):
        build(tmp_path, content, min_keypoints=9)
    with pytest.raises(ConfigError, match="min_keypoints"):
        CocoConfig(images=images, annotations=annotations, min_keypoints=-1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("all", "not a list of numbers"),
        ([1, 1, 2], "3 numbers, not x, y, v of 3 keypoints"),
        ([1, 1, 3] * 3, "flag v"),
        ([1, float("nan"), 2] * 3, "not finite"),
        ([1, 1, None] * 3, "not a list of numbers"),
    ],
)
def test_faulty_keypoints_are_told(tmp_path: Path, values: Any, message: str) -> None:
    content = with_keypoints()
    content["annotations"][0]["keypoints"] = values
    with pytest.raises(DataError, match=rf"annotation 100 \(image 10\).*{message}"):
        build(tmp_path, content, on_error="raise")
    assert len(build(tmp_path, content, filter_empty=False).load(0).targets) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": None}, "no category defines 'keypoints'"),
        ({"keypoints": ["nose", "nose"], "skeleton": []}, "same name"),
        ({"keypoints": [1, 2]}, "a list of names"),
        ({"skeleton": [[1, 4]]}, r"outside 1\.\.3"),
        ({"skeleton": [1]}, "pairs"),
        ({"keypoints": ["nose", "left_eye", "chin"]}, "no counterpart 'right_eye'"),
    ],
)
def test_faulty_definitions_are_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = with_keypoints()
    content["categories"][0].update(change)
    with pytest.raises(DataError, match=message):
        build(tmp_path, content)


def test_two_kinds_of_keypoints_are_refused(tmp_path: Path) -> None:
    content = with_keypoints()
    content["categories"][1]["keypoints"] = ["tail"]
    with pytest.raises(DataError, match=r"'person'.*differ from those of 'toothbrush'"):
        build(tmp_path, content)


def test_left_and_right_are_found_by_name() -> None:
    assert COCO_PERSON.mirror == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert KeypointSchema(("eye_right", "leftover", "eye_left")).mirror == (2, 1, 0)
    assert len(COCO_PERSON.skeleton) == 19


def scene() -> RawSample:
    """A black image of 30 x 40 pixels, each labelled keypoint a pixel of its own gray level."""
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    points = torch.tensor([[[3.5, 4.5, 2], [10.5, 6.5, 2], [30.5, 20.5, 1], [0, 0, 0]]])
    for gray, (x, y) in zip((50, 100, 150), ((3, 4), (10, 6), (30, 20)), strict=True):
        image[y, x] = gray
    targets = Targets(
        torch.tensor([[2.0, 3, 33, 22]]), torch.zeros(1, dtype=torch.int64), None, torch.ones(1), points
    )
    return RawSample(image, ImageInfo(1, "a.png", 30, 40), targets, mirror=(0, 2, 1, 3))


def grays(sample: RawSample) -> list[int]:
    """What the image shows under each labelled keypoint."""
    found = sample.targets.keypoints
    assert found is not None
    return [int(sample.image[int(y), int(x), 0]) for x, y, v in found[0].tolist() if v]


@pytest.mark.parametrize("transform", [HorizontalFlip(1.0), VerticalFlip(1.0)])
def test_a_mirror_moves_keypoints_and_swaps_left_and_right(transform: Any) -> None:
    rng = np.random.default_rng(0)
    once = transform(scene(), rng)
    assert grays(once) == [50, 150, 100]
    assert once.targets.keypoints[0, :, 2].tolist() == [2, 1, 2, 0]
    assert once.targets.keypoints[0, 3].tolist() == [0, 0, 0]
    twice = transform(once, rng)
    assert torch.equal(twice.targets.keypoints, scene().targets.keypoints)


def test_hflip_by_hand() -> None:
    found = HorizontalFlip(1.0)(scene(), np.random.default_rng(0)).targets.keypoints
    assert found is not None
    assert found[0, 0].tolist() == [36.5, 4.5, 2] and found[0, 1].tolist() == [9.5, 20.5, 1]


def test_a_turn_moves_keypoints_and_swaps_nothing() -> None:
    for seed in range(4):
        assert grays(Rotate90(1.0)(scene(), np.random.default_rng(seed))) == [50, 100, 150]


def test_a_resize_scales_keypoints() -> None:
    found = resize_to(scene(), 60, 20, "linear").targets.keypoints
    assert found is not None
    assert found[0, :3].tolist() == [[1.75, 9, 2], [5.25, 13, 2], [15.25, 41, 1]]


def test_a_crop_takes_the_label_of_keypoints_outside() -> None:
    cropped = crop_to(scene(), 5, 5, 26, 20, min_side=1.0)
    found = cropped.targets.keypoints
    assert found is not None
    assert found[0].tolist() == [[0, 0, 0], [5.5, 1.5, 2], [25.5, 15.5, 1], [0, 0, 0]]
    assert grays(cropped) == [100, 150]


def test_large_scale_jitter_keeps_keypoints_inside() -> None:
    big = scene()
    big = RawSample(cv2.blur(big.image, (3, 3)), big.info, big.targets, mirror=big.mirror)
    for seed in range(10):
        jitter = [LargeScaleJitter((24, 24), 0.5, 2.0), HorizontalFlip(0.5)]
        found = apply_transforms(jitter, big, np.random.default_rng(seed)).targets.keypoints
        assert found is not None
        labelled = found[found[..., 2] > 0]
        assert ((labelled[:, :2] >= 0) & (labelled[:, :2] <= 24)).all()
        assert not found[found[..., 2] == 0].any()


def test_generated_keypoints_stand_where_they_should(tmp_path: Path) -> None:
    """Left is left of the way from belly to waist, also in a mirror; those to be seen lie at the mask."""
    config = SyntheticConfig(level="hard", num_images=12, root=tmp_path, keypoints=True)
    dataset = config.build(training=False)
    assert dataset.keypoints is not None
    assert dataset.categories.names == ("crescent",)
    assert dataset.keypoints.names == ("belly", "waist", "left_tip", "right_tip")
    assert dataset.keypoints.mirror == (0, 1, 3, 2)
    rng = np.random.default_rng(0)
    flags: list[float] = []
    at_mask: list[bool] = []
    for i in range(len(dataset)):
        raw = dataset.load(i)
        assert raw.targets.masks is not None and raw.targets.keypoints is not None
        near = [cv2.dilate(m, np.ones((5, 5))) for m in raw.targets.masks.to_bitmaps(*raw.size).numpy()]
        for mask, points in zip(near, raw.targets.keypoints.tolist(), strict=True):
            flags += [v for _, _, v in points]
            at_mask += [bool(mask[int(y), int(x)]) for x, y, v in points if v == 2]
        for sample in (raw, HorizontalFlip(1.0)(raw, rng)):
            points = sample.targets.keypoints
            belly, waist, left, right = points[(points[..., 2] > 0).all(1)][..., :2].unbind(1)
            ahead = waist - belly
            for tip, sign in ((left, -1), (right, 1)):  # y points down
                aside = ahead[:, 0] * (tip - belly)[:, 1] - ahead[:, 1] * (tip - belly)[:, 0]
                assert (aside * sign > 0).all()
    assert min(flags.count(v) for v in (0, 1, 2)) > 5
    assert np.mean(at_mask) > 0.98  # masks leave out slivers of less than half a pixel
    assert config.build(training=True).load(0).mirror == (0, 1, 3, 2)
