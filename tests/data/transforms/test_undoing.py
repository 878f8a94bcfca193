"""Transforms in evaluation must leave boxes where the sizes put them: said, or tried."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest

from maskrcnn.data import RawSample, Transform
from maskrcnn.data.interfaces import TRANSFORMS, as_transform
from maskrcnn.data.transforms.affine import Affine, TightenBoxes
from maskrcnn.data.transforms.albumentations_pipeline import AlbumentationsPipeline
from maskrcnn.data.transforms.basic import ColorJitter, HorizontalFlip, RandomCrop, Rotate90, VerticalFlip
from maskrcnn.data.transforms.colour import Blur, Brightness, Contrast, Gamma, Gray, Invert, Noise
from maskrcnn.data.transforms.jitter import LargeScaleJitter
from maskrcnn.data.transforms.moving import crop_to, pad_to, resize_to
from maskrcnn.data.transforms.pipelines import PipelineStep
from maskrcnn.data.transforms.resizing import Resize, ResizeLongest, ResizeShortestEdge
from maskrcnn.data.transforms.torchvision_pipeline import TorchvisionPipeline
from maskrcnn.data.transforms.undoing import not_undoable, resizes_only
from tests.data.transforms.libraries import needs_albumentations

BUILT_IN = [
    (Resize(90, 31), True),
    (ResizeLongest(64), True),
    (ResizeShortestEdge((40, 48), 80), True),
    (ResizeShortestEdge((333,), 500, rounding="floor"), True),
    (ColorJitter(0.3, 0.3, 0.3), True),
    (HorizontalFlip(0.5), False),
    (HorizontalFlip(0.0), True),
    (VerticalFlip(1.0), False),
    (Rotate90(0.75), False),
    (Rotate90(0.0), True),
    (RandomCrop(32, 32), False),
    (RandomCrop(600, 600, p=0.5), False),
    (LargeScaleJitter((64, 64), 0.5, 1.0), False),
    (Affine(), False),
    (Affine(p=0.0), True),
    (TightenBoxes(), True),
    (Brightness(), True),
    (Contrast(), True),
    (Gamma(), True),
    (Invert(), True),
    (Gray(), True),
    (Blur(), True),
    (Noise(), True),
    (TorchvisionPipeline(pipeline=(PipelineStep(name="RandomHorizontalFlip"),)), False),
    (TorchvisionPipeline(pipeline=(PipelineStep(name="ColorJitter"),)), True),
    pytest.param(
        *(AlbumentationsPipeline(pipeline=(PipelineStep(name="HorizontalFlip"),)), False),
        marks=needs_albumentations,
    ),
]


@dataclass
class Silent:
    """A transform of someone's own: it does as another, and says nothing of itself."""

    inner: Transform

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        return self.inner(sample, rng)


@pytest.mark.parametrize(("transform", "answer"), BUILT_IN)
def test_what_transforms_say_is_what_is_found_by_trying(transform: Transform, answer: bool) -> None:
    assert resizes_only(transform) is answer
    assert resizes_only(Silent(transform)) is answer


def test_every_registered_transform_is_covered() -> None:
    cases = (case.values if hasattr(case, "values") else case for case in BUILT_IN)
    built = {type(transform).__name__ for transform, _ in cases}
    own = [
        TRANSFORMS.get(n) for n in TRANSFORMS.names() if TRANSFORMS.get(n).__module__.startswith("maskrcnn.")
    ]
    assert {cls.__name__ for cls in own} == built


def letterbox(sample: RawSample, rng: np.random.Generator) -> RawSample:
    h, w = sample.size
    return pad_to(sample, max(h, w), max(h, w), (0, 0, 0))


def multiples(sample: RawSample, rng: np.random.Generator) -> RawSample:
    h, w = sample.size
    return crop_to(sample, 0, 0, w // 32 * 32, h // 32 * 32, min_side=0.0)


def half(sample: RawSample, rng: np.random.Generator) -> RawSample:
    return resize_to(sample, (sample.size[0] + 1) // 2, (sample.size[1] + 1) // 2, "area")


def blur(sample: RawSample, rng: np.random.Generator) -> RawSample:
    return replace(sample, image=cv2.blur(sample.image, (3, 3)))


def drop_small(sample: RawSample, rng: np.random.Generator) -> RawSample:
    boxes = sample.targets.boxes
    return replace(sample, targets=sample.targets.select((boxes[:, 2] - boxes[:, 0]) > 0.35 * sample.size[1]))


def fails(sample: RawSample, rng: np.random.Generator) -> RawSample:
    raise KeyError("needs something that the probe does not have")


@pytest.mark.parametrize(
    ("transform", "answer"),
    [(letterbox, False), (multiples, False), (half, True), (blur, True), (drop_small, True), (fails, True)],
)
def test_transforms_of_ones_own_are_tried(transform: Transform, answer: bool) -> None:
    assert resizes_only(transform) is answer


def test_what_a_transform_says_of_itself_counts() -> None:
    class Own:
        resizes_only = True

        def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
            raise AssertionError("it was tried")

    assert resizes_only(Own())


def test_a_plugins_config_of_before_is_what_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms were once made by a config with ``build()``, and a plugin's may be so still."""

    @dataclass(frozen=True)
    class PadConfig:
        def build(self) -> Transform:
            return letterbox

    monkeypatch.setitem(TRANSFORMS._entries, "pad_of_before", PadConfig)
    config = TRANSFORMS.make("pad_of_before")
    assert as_transform(config) is letterbox
    ((place, sentence),) = not_undoable([Resize(20, 20), config])
    assert place == 1 and sentence.startswith("pad_of_before moves or cuts the picture")
    flip = HorizontalFlip(0.5)
    assert as_transform(flip) is flip
