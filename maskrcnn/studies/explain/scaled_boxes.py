"""The boxes of a data set at network scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data.fault_report import FaultReport
from maskrcnn.data.index import read_annotations
from maskrcnn.data.interfaces import Transform
from maskrcnn.data.transforms.moving import apply_transforms
from maskrcnn.errors import DataError, UserError
from maskrcnn.structures import ImageInfo, RawSample, Targets
from maskrcnn.studies.explain.placement import Floats

#: (height, width) of an image in the original frame -> in the network frame, pixels.
Resize = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Boxes:
    """K ground-truth boxes in the network frame.

    xyxy: float64 [K, 4], pixels.  sizes: int64 [K, 2], (height, width) of each box's image, pixels.
    name: where they come from, for titles.  images: how many images they lie in.
    """

    xyxy: Floats
    sizes: npt.NDArray[np.int64]
    name: str
    images: int

    def __len__(self) -> int:
        return len(self.xyxy)


def load_boxes(annotations: Path, resize: Resize, *, image_ids: Sequence[int] | None = None) -> Boxes:
    """All boxes that train in a COCO json (no crowd regions, no faulty ones), as the network sees them.

    image_ids: only those images.

    Raises:
        DataError: the file is not usable; see :func:`maskrcnn.data.index.read_annotations`.
        UserError: there is no box in it.
    """
    index = read_annotations(annotations, FaultReport(str(annotations), None), masks=False)
    boxes = np.concatenate([index.targets(i).boxes.numpy() for i in range(len(index))]).astype(np.float64)
    image = np.repeat(np.arange(len(index)), index.counts())
    if image_ids is not None:
        keep = np.isin(index.image_ids, np.asarray(image_ids))[image]
        boxes, image = boxes[keep], image[keep]
    if not len(boxes):
        raise UserError(f"{annotations}: there is no box in it, so there is nothing to measure")
    old, which = np.unique(index.sizes, axis=0, return_inverse=True)
    new = np.array([resize(int(h), int(w)) for h, w in old], dtype=np.int64)
    which = which.reshape(-1)[image]
    factor = (new / old)[which][:, [1, 0, 1, 0]]
    return Boxes(boxes * factor, new[which], annotations.name, len(np.unique(image)))


def resize_of(transforms: Sequence[Transform], where: str) -> Resize:
    """What a chain of transforms does to an image's size, found by sending one through.

    Raises (when called):
        DataError: the chain also crops, pads or mirrors: then there is no one scale.
    """

    def resize(height: int, width: int) -> tuple[int, int]:
        # The box is the left half: a mirror moves it, a crop or a pad changes its share of the frame.
        box = torch.tensor([[0.0, 0.0, width / 2, float(height)]])
        targets = Targets(box, torch.zeros(1, dtype=torch.int64), None, torch.zeros(1, dtype=torch.int64))
        image = np.zeros((height, width, 3), dtype=np.uint8)
        sample = RawSample(image, ImageInfo(0, "", height, width), targets)
        out = apply_transforms(transforms, sample, np.random.default_rng(0))
        h, w = out.size
        want = torch.tensor([[0.0, 0.0, w / 2, float(h)]])
        if out.targets.boxes.shape != want.shape or not torch.allclose(out.targets.boxes, want, atol=0.01):
            raise DataError(f"{where} does more than resize, so that boxes have no one network scale")
        return h, w

    return resize
