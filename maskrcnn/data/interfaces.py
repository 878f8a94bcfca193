"""The data side's swappable slots, and what each part must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from maskrcnn.config.registry import Registry
from maskrcnn.data.images import Image
from maskrcnn.data.report import FaultReport, OnError
from maskrcnn.structures import ImageInfo, KeypointSchema, Sample, Targets
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.ground_truth import GroundTruth


@dataclass(frozen=True)
class Note:
    """Something about an image file that was read but hardly as meant.

    kind: ``damaged`` or ``pages``.  words: the shortest way to say it.  sentence: for a message.
    """

    kind: str
    words: str
    sentence: str


@dataclass(frozen=True)
class RawSample:
    """One image on its way through the transforms.

    image: uint8 (float32 in [0, 255] for kept 16-bit data) [H, W, 3] RGB, current frame.
    info: which image, and its size in the original frame.
    targets: the ground truth in the current frame.
    proposals: float32 [P, 4] xyxy in the current frame and inside it, by falling score; None where the
        data come without.
    mirror: for each keypoint, the one that takes its place in a mirror; None where there are none.
    notes: what is doubtful about its file, for the loader to tell.
    """

    image: Image
    info: ImageInfo
    targets: Targets
    proposals: Tensor | None = None
    mirror: tuple[int, ...] | None = None
    notes: tuple[Note, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the current frame, in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def to_sample(self) -> Sample:
        """As the model takes it: a [3, H, W] tensor."""
        image = torch.from_numpy(np.ascontiguousarray(self.image.transpose(2, 0, 1)))
        return Sample(image, self.info, self.targets, self.proposals)


class Dataset(Protocol):
    """Images with ground truth, read one at a time, in any order, from any process.

    categories: its classes.
    annotation_file: what its annotations were read from, for messages.
    image_ids: int64 [N], the id of each image.
    sizes: int32 [N, 2], (height, width) of each image in the original frame, in pixels.
    keypoints: what the keypoints of its targets are; None where they have none.
    report: what was wrong and passed over.
    on_error: what the loader does about an unreadable image.
    """

    @property
    def categories(self) -> Categories: ...
    @property
    def annotation_file(self) -> Path: ...
    @property
    def image_ids(self) -> Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]: ...
    @property
    def sizes(self) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]: ...
    @property
    def keypoints(self) -> KeypointSchema | None: ...
    @property
    def report(self) -> FaultReport: ...
    @property
    def on_error(self) -> OnError: ...
    def __len__(self) -> int: ...
    def ground_truth(self) -> GroundTruth:
        """What evaluation compares with: at least the images of ``image_ids``, crowd regions among theirs."""
        ...

    def load(self, index: int) -> RawSample:
        """Image ``index`` in [0, N) in its original frame.

        Raises:
            DataError: its file cannot be read.
        """
        ...


class Transform(Protocol):
    """Changes an image and its ground truth alike; all randomness comes from ``rng``.

    An attribute ``resizes_only: bool`` may say whether boxes stay where the ratio of the two sizes puts them
    (colours and scales, no flip, crop or padding); in ``data.eval_transforms`` only such ones are possible,
    since detections are mapped back by the sizes.  Without it a transform is tried (``undoing``).
    """

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample: ...


class DatasetConfig(Protocol):
    def build(
        self, training: bool, *, categories: Categories | None = None, on_error: OnError = None
    ) -> Dataset:
        """The data set.

        training: images without ground truth may be left out; in evaluation never.
        categories: the classes of the training data, which a validation set must share.
        on_error: the recipe's choice, where this config makes none of its own.
        """
        ...


class TransformConfig(Protocol):
    def build(self) -> Transform: ...


DATASETS: Registry[DatasetConfig] = Registry("data set")
TRANSFORMS: Registry[TransformConfig] = Registry("transform")
