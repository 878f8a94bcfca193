"""What was found in one image, and every form in which that is handed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.errors import DataError
from maskrcnn.inference.records import Result
from maskrcnn.structures.rle import TextRLE, decode
from maskrcnn.viz.instances import draw_records
from maskrcnn.viz.labels import Image
from maskrcnn.viz.skeletons import sure


@dataclass(frozen=True)
class Prediction:
    """The instances found in one image, by falling score, in the image's own frame.

    image: uint8 [H, W, 3] RGB; None where it is too large to be held, or was not kept.
    boxes: float64 [D, 4] xyxy, pixels.
    scores: float64 [D] in [0, 1].
    labels: int64 [D], contiguous class indices; ``names[label]`` is the class.
    records: D COCO records with category ids and RLE masks.
    names: of all classes.
    keypoints: float64 [D, J, 3]: x, y in pixels (continuous, as boxes) and a score; None where the model has
        none.
    keypoint_scores: what that score is: ``logit`` or ``probability``, the model's ``keypoint_head.scores``.
    extras: what further heads add, by their names: [D, ...]; numbers of an instance are in ``records`` too.
    size: (height, width) of the image in pixels; to be given where ``image`` is not.
    name: the image's file, as it was named; empty where it was an array.
    image_id: that of the records: the image's place among those of one call.
    capped: whether the model found as many objects as ``model.roi.max_detections`` lets it keep, all of them
        good enough to be here, so that others may be missing.
    small: how many instances were below 8 px (square root of the box's area) as the network saw them.
    """

    image: Image | None
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    records: list[Result]
    names: tuple[str, ...]
    keypoints: npt.NDArray[np.float64] | None = None
    keypoint_scores: str = "logit"
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    name: str = ""
    image_id: int = 0
    capped: bool = False
    small: int = 0

    def __post_init__(self) -> None:
        if self.size == (0, 0):
            if self.image is None:
                raise ValueError("a prediction without its image needs the image's size")
            object.__setattr__(self, "size", self.image.shape[:2])

    def __len__(self) -> int:
        return len(self.records)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each instance's class."""
        return tuple(self.names[label] for label in self.labels.tolist())

    @property
    def rles(self) -> list[TextRLE] | None:
        """D COCO RLEs of the image's size; None where the model has no masks."""
        if any("segmentation" not in r for r in self.records):
            return None
        return [r["segmentation"] for r in self.records]

    @property
    def masks(self) -> npt.NDArray[np.bool_] | None:
        """bool [D, H, W], made when asked for; None where the model has no masks."""
        rles = self.rles
        if rles is None:
            return None
        out = np.zeros((len(self), *self.size), dtype=np.bool_)
        for i, code in enumerate(rles):
            out[i] = decode(code)
        return out

    def draw(self, image: Image | None = None, **style: Any) -> Image:
        """The image with its instances drawn over it, uint8 RGB, enlarged where it is small.

        Args:
            image: uint8 [H, W, 3] RGB to draw on, in place of the prediction's own.
            style: further arguments of :func:`maskrcnn.viz.instances.draw_instances`.

        Raises:
            DataError: there is no image.
        """
        if self.keypoints is not None:
            style.setdefault("keypoints", sure(self.keypoints, self.keypoint_scores))
        picture = self._picture(image, "draw")
        return draw_records(picture, self.records, self.labels.tolist(), self.names, **style)

    def _picture(self, image: Image | None, what: str) -> Image:
        picture = self.image if image is None else image
        if picture is None:
            raise DataError(
                f"this prediction of {self.size[1]} x {self.size[0]} pixels does not hold its image; pass"
                f" it: {what}(image)"
            )
        return picture
