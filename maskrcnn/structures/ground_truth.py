"""What a data set's images hold, as evaluation takes it: columns, whatever format they were read from.

Legend: N = images, A = annotations, crowd regions among them, K = classes, J = keypoints an instance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from maskrcnn.structures import rle

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
#: What of an instance is compared with the truth.
IouType = Literal["bbox", "segm", "keypoints"]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The truth of N images, original frame, pixels.

    source: where it comes from, for messages.
    image_ids: int64 [N].  sizes: int64 [N, 2], (height, width).
    category_ids, category_names: K, by rising id.
    annotation_ids: int64 [A], in the order of the file.
    images, labels: int64 [A], places among the images and classes.
    boxes: float64 [A, 4], x, y, width, height.  areas: float64 [A]; NaN where none is given.
    crowds: bool [A].
    encode: the mask of annotation i as an RLE; None where the data set was read without masks.
    outline: the same as polygons, flat x, y each; it gives None where the mask is none of polygons.
    keypoints: float64 [A, 3 J], x, y, v each; None where there are none.
    labelled: int64 [A], keypoints that count; empty where there are none.
    dropped_images: ids of images that the source lists and that were left out.
    notes: one sentence about each kind of thing that was left out or mended.
    """

    source: str
    image_ids: Integers
    sizes: Integers
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    annotation_ids: Integers
    images: Integers
    labels: Integers
    boxes: Floats
    areas: Floats
    crowds: npt.NDArray[np.bool_]
    encode: Callable[[int], rle.RLE] | None = None
    outline: Callable[[int], list[list[float]] | None] | None = None
    keypoints: Floats | None = None
    labelled: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    dropped_images: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.annotation_ids)

    @cached_property
    def image_places(self) -> dict[int, int]:
        """Place by image id."""
        return {image_id: i for i, image_id in enumerate(self.image_ids.tolist())}

    @property
    def has_masks(self) -> bool:
        """Whether masks were read."""
        return self.encode is not None

    @cached_property
    def _codes(self) -> dict[int, bytes]:
        return {}

    def mask(self, i: int) -> bytes:
        """The compressed counts of annotation ``i``'s RLE, made once.

        Raises:
            ValueError: the data set was read without masks.
        """
        if i not in self._codes:
            if self.encode is None:
                raise ValueError(f"{self.source} was read without masks")
            self._codes[i] = self.encode(i)["counts"]
        return self._codes[i]

    def area(self, i: int) -> float:
        """The area of annotation ``i`` as given, else that of its mask, else of its box; square pixels."""
        stated = float(self.areas[i])
        if not math.isnan(stated):
            return stated
        if self.has_masks:
            return float(rle.runs(self.mask(i))[1::2].sum())
        return float(self.boxes[i, 2] * self.boxes[i, 3])
