"""What of a data set decides a config: how many, how large, of what kind.

Legend: N = images, G' = objects of the images that are looked at, K = classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from maskrcnn.data import CocoDataset, Dataset
from maskrcnn.data.doctor.look import look_at
from maskrcnn.data.pixel_statistics import PixelStatistics, pixel_statistics
from maskrcnn.errors import DataError, UserError, plural
from maskrcnn.recipe import DataConfig
from maskrcnn.run.fit_doubts import Seen

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
#: What there is of masks.
Masks: TypeAlias = Literal["none", "polygons", "run lengths"]

#: Images that are opened, evenly over the set.
LOOKED = 60
#: Channels differ by no more than this in a gray image; JPEG makes so much.
_GRAY = 4.0


@dataclass(frozen=True)
class DataFacts:
    """A training set.

    boxes: float64 [G', 4] xyxy, original frame.  frames: int64 [G', 2], (height, width) of their images.
    counts: int64 [N], objects of each image.  sizes: int64 [N, 2], (height, width).
    class_images: int64 [K], images with the class; class_objects: int64 [K].
    most: objects of one image, in training or validation.
    gray, dark: share of the images looked at that are without colour; whose mean is below the middle.
    highest: the highest value of files of more than 8 bits a channel; -1 where there are none.
    pixels: mean and deviation.
    joints: keypoints an instance; 0: none.
    """

    classes: tuple[str, ...]
    boxes: Floats
    frames: Integers
    counts: Integers
    sizes: Integers
    class_images: Integers
    class_objects: Integers
    most: int
    masks: Masks
    joints: int
    gray: float
    dark: float
    highest: int
    channels: int
    pixels: PixelStatistics

    @property
    def images(self) -> int:
        """N."""
        return len(self.counts)

    def scaled(self, short: float) -> Floats:
        """The boxes [G', 4] where the shorter side of each image is ``short`` pixels."""
        found: Floats = self.boxes * (short / self.frames.min(1))[:, None]
        return found

    def sides(self, short: float) -> Floats:
        """Square roots of their areas: [G']."""
        boxes = self.scaled(short)
        found: Floats = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        return found


def read_facts(data: DataConfig) -> DataFacts:
    """
    Raises:
        DataError: the data cannot be read.
        UserError: there is no object to learn from.
    """
    train = data.build(data.train, True)
    seen, truth = Seen(train, None), train.ground_truth()
    most = int(seen.counts.max(initial=0))
    if data.val is not None:
        most = max(most, int(Seen(data.build(data.val, False), None).counts.max(initial=0)))
    if not seen.counts.any():
        raise UserError(f"{train.annotation_file}: there is no object in it to learn from")
    real = ~truth.crowds
    classes = len(truth.category_ids)
    pairs = np.unique(np.stack([truth.images[real], truth.labels[real]], axis=1), axis=0)
    places = [truth.image_places[int(i)] for i in train.image_ids]
    gray, dark = _colours(train)
    return DataFacts(
        classes=tuple(truth.category_names),
        boxes=seen.boxes,
        frames=seen.sizes,
        counts=seen.counts,
        sizes=truth.sizes[places],
        class_images=np.bincount(pairs[:, 1], minlength=classes),
        class_objects=np.bincount(truth.labels[real], minlength=classes),
        most=most,
        masks=_masks(train),
        joints=0 if truth.keypoints is None else truth.keypoints.shape[1] // 3,
        gray=gray,
        dark=dark,
        highest=_highest(train),
        channels=data.channels,
        pixels=pixel_statistics(train, LOOKED),
    )


def with_readable_masks(data: DataConfig) -> DataConfig:
    """``data``, read without masks where no object has one: else all would be left out.

    Raises:
        DataError: the data cannot be read.
    """
    if not getattr(data.train, "masks", False):
        return data
    try:
        data.build(data.train, True)
    except DataError as error:
        without = _without_masks(data)
        try:
            without.build(without.train, True)
        except DataError:
            raise error from None
        return without
    return data


def _without_masks(data: DataConfig) -> DataConfig:
    parts: dict[str, Any] = {
        key: replace(part, masks=False)
        for key in ("train", "val")
        if (part := getattr(data, key)) is not None and hasattr(part, "masks")
    }
    return replace(data, **parts)


def _looked(dataset: Dataset) -> list[int]:
    found: list[int] = np.unique(np.linspace(0, len(dataset) - 1, LOOKED).astype(np.int64)).tolist()
    return found


def _colours(dataset: Dataset) -> tuple[float, float]:
    gray, dark = [], []
    for place in _looked(dataset):
        try:
            image = dataset.load(place).image
        except DataError:  # told by the doctor, and by the training
            continue
        values = image[:: max(1, image.shape[0] // 64), :: max(1, image.shape[1] // 64)].astype(np.float32)
        gray.append(bool((values.max(2) - values.min(2)).max() <= _GRAY))
        dark.append(bool(values.mean() < 127.5))
    if not gray:
        raise DataError(
            f"{dataset.annotation_file}: none of {plural(len(_looked(dataset)), 'image')} can be read"
        )
    return float(np.mean(gray)), float(np.mean(dark))


def _masks(dataset: Dataset) -> Masks:
    """By the first objects that have any."""
    truth = dataset.ground_truth()
    if truth.encode is None:
        return "none"
    kinds = [truth.outline is not None and truth.outline(i) is not None for i in range(min(len(truth), 500))]
    return "polygons" if np.mean(kinds) > 0.5 else "run lengths"


def _highest(dataset: Dataset) -> int:
    if not isinstance(dataset, CocoDataset):
        return -1
    return max(look_at(dataset, place).highest for place in _looked(dataset))
