"""The boxes of a data set at network scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maskrcnn.data.annotation_reader import read_annotations
from maskrcnn.data.fault_report import FaultReport
from maskrcnn.data.transforms.network_size import Resize, network_sizes
from maskrcnn.errors import UserError
from maskrcnn.studies.explain.placement import Floats


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
        DataError: the file is not usable; see :func:`maskrcnn.data.annotation_reader.read_annotations`.
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
    new = network_sizes(index.sizes, resize)
    factor = (new / index.sizes)[image][:, [1, 0, 1, 0]]
    return Boxes(boxes * factor, new[image], annotations.name, len(np.unique(image)))
