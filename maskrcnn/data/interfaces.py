"""The data side's swappable slots, and what each part must offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import any_number
from maskrcnn.config.registry import Named, Registry
from maskrcnn.data.fault_report import FaultReport, OnError
from maskrcnn.errors import ConfigError
from maskrcnn.structures import KeypointSchema, RawSample
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.ground_truth import GroundTruth
from maskrcnn.structures.samples import Image, Note


class ImageCache(Protocol):
    """Decoded images that are kept: see :mod:`maskrcnn.data.image_cache`."""

    def through(
        self,
        place: int,
        path: Path,
        page: int,
        size: tuple[int, int],
        read: Callable[[], tuple[Image, tuple[Note, ...]]],
    ) -> tuple[Image, tuple[Note, ...]]: ...


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

    What is registered is the transform itself, a frozen dataclass of its options.

    An attribute ``resizes_only: bool`` may say whether boxes stay where the ratio of the two sizes puts them
    (colours and scales, no flip, crop or padding); in ``data.eval_transforms`` only such ones are possible,
    since detections are mapped back by the sizes.  Without it a transform is tried (``undoing``).
    """

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample: ...


Percentile = Annotated[float, Range(0, 100)]
FileValue = Annotated[float, any_number("files hold values of any size")]
#: Channels of an image; cameras have at most some hundreds.
Channels = Annotated[int, Range(1, 1024, "images of so many channels fill the memory")]


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(Config):
    """Which values of a file become 0 and 255; between them straight, beyond them cut off, as float32."""

    #: Percentiles of an image's values, lowest first.  Default 1 and 99.8 (StarDist: Schmidt et al. 2018).
    percentiles: tuple[Percentile, Percentile] = (1.0, 99.8)
    #: Values of the file themselves, in place of percentiles: [0, 4095] for 12 bits.  Default null.
    range: tuple[FileValue, FileValue] | None = None
    #: channel: the percentiles of each channel by itself; image: of all together, which keeps colours.
    over: Literal["channel", "image"] = "channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("percentiles", "range"):
            ends = getattr(self, name)
            if ends is not None and ends[0] >= ends[1]:
                raise ConfigError(f"{name} {list(ends)} must name two values, the lower first")


@dataclass(frozen=True, kw_only=True)
class TilesConfig(Config):
    """Images are trained on, and judged, in square windows that overlap; see :mod:`maskrcnn.data.tiles`."""

    #: Side of a window, pixels of the image; smaller images are taken whole.  It enters the network as an
    #: image does, through train_transforms and eval_transforms.  Default 512.
    size: Annotated[int, Range(32, 16_384, "a window of that size fills the memory")] = 512
    #: Least overlap of two neighbours, a share of the side, in [0, 0.5], and never under 16 px.  Objects up
    #: to that size are whole in some window.  Default 0.2 (SAHI: Akyon et al. 2022, section 3).
    overlap: Annotated[float, Range(0, 0.5)] = 0.2
    #: An object that a window cuts trains there where at least this share of its area (of the window's, if
    #: that is less) lies inside, in (0, 1].  Default 0.3 (SAHI keeps from 0.1 on, DOTA's tools from 0.7).
    keep: Annotated[float, Range(above=0, most=1)] = 0.3
    #: Windows without an object train too; false: those alone that have one.  Default false.
    empty: bool = False


@dataclass(frozen=True)
class ImageReading:
    """How files become arrays; see the keys of the same names below ``data``."""

    channels: int = 3
    pages: Literal["first", "channels", "images"] = "first"
    contrast: ContrastConfig | None = None


#: The files of most data sets.
RGB = ImageReading()

#: Transforms of training images under one name; what each is for stands in its docstring.
Augmentation: TypeAlias = Callable[[], tuple[Transform, ...]]


class DatasetConfig(Protocol):
    def build(
        self, training: bool, *, categories: Categories | None = None, on_error: OnError = None
    ) -> Dataset:
        """The data set.

        training: images without ground truth may be left out; in evaluation never.
        categories: the classes of the training data, which a validation set must share.
        on_error: the recipe's choice, where this config makes none of its own.

        A config whose images have other channels, pages or a contrast takes ``reading: ImageReading`` too.
        """
        ...


def as_transform(registered: Any) -> Transform:
    """``registered`` itself; of a config of before, that of a plugin, what its ``build()`` makes."""
    transform: Transform = registered.build() if hasattr(registered, "build") else registered
    return transform


#: How a training set is cut into windows.
TILINGS: Named[Callable[[Dataset, TilesConfig], Dataset]] = Named("tiling", "maskrcnn.data", grid="tiles")
#: How many objects the densest window of each image has.
DENSEST: Named[Callable[[Dataset, TilesConfig], np.ndarray[tuple[int], np.dtype[np.int64]]]] = Named(
    "tiling", "maskrcnn.data", grid="tiles"
)
DATASETS: Registry[DatasetConfig] = Registry(
    "data set", "maskrcnn.data", coco="formats.coco", synthetic="synthetic.dataset"
)
TRANSFORMS: Registry[Transform] = Registry(
    "transform",
    "maskrcnn.data.transforms",
    affine="affine",
    albumentations="albumentations_pipeline",
    blur="colour",
    brightness="colour",
    contrast="colour",
    gamma="colour",
    gray="colour",
    hflip="basic",
    invert="colour",
    noise="colour",
    tighten_boxes="affine",
    torchvision_v2="torchvision_pipeline",
    vflip="basic",
    rotate90="basic",
    random_crop="basic",
    color_jitter="basic",
    large_scale_jitter="jitter",
    resize="resizing",
    resize_longest="resizing",
    resize_shortest_edge="resizing",
)
AUGMENTATIONS: Named[Augmentation] = Named(
    "augmentation",
    "maskrcnn.data.transforms",
    aerial="presets",
    microscopy="presets",
    none="presets",
    photos="presets",
)
