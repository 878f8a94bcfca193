"""A COCO json as a few flat arrays.

Worker processes share the arrays as they are (a forked process copies only pages that it writes, and
reading a Python object writes its reference count, but reading an array's contents does not), so memory
stays flat however many workers and epochs there are.

Legend: N = images, A = annotations that train (crowd regions and faulty ones are not among them),
J = keypoints an instance.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data.categories import Categories
from maskrcnn.data.checks import FaultError, check_box, check_keypoints, check_mask, check_record
from maskrcnn.data.coco_json import (
    ImageRecords,
    difference,
    load_coco,
    read_categories,
    read_keypoint_schema,
)
from maskrcnn.data.report import FaultReport
from maskrcnn.errors import DataError
from maskrcnn.structures import ImageInfo, InstanceMasks, KeypointSchema, Targets, rle

# How an annotation's mask is stored: as polygons in hundredths of a pixel, exact for what COCO's own
# files hold, at half the memory; as polygons in float64 where hundredths are not exact; as RLE text.
_NO_MASK, _HUNDREDTHS, _FLOATS, _RLE = range(4)


@dataclass(frozen=True)
class AnnotationIndex:
    """All images and training annotations of one file, images by rising id.

    image_ids: int64 [N].  sizes: int32 [N, 2] (height, width), original frame, pixels.
    ends: int64 [N], where the annotations of each image end in ``rows``, int64 [A].
    The other arrays are in the order of the file; ``rows`` points into them.
    keypoints: float32 [A, J, 3], continuous, see ``Targets``; J = 0 where they were not asked for.
    keypoint_schema: their names, or None.
    """

    categories: Categories
    image_ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    names: npt.NDArray[np.uint8]
    name_ends: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    annotation_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.uint8]
    data_starts: npt.NDArray[np.int64]
    data_ends: npt.NDArray[np.int64]
    polygon_ends: npt.NDArray[np.int64]
    polygon_sizes: npt.NDArray[np.int32]
    hundredths: npt.NDArray[np.int32]
    floats: npt.NDArray[np.float64]
    texts: npt.NDArray[np.uint8]
    masks: bool
    keypoints: npt.NDArray[np.float32]
    keypoint_schema: KeypointSchema | None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, in bytes."""
        return sum(v.nbytes for v in vars(self).values() if isinstance(v, np.ndarray))

    def info(self, i: int) -> ImageInfo:
        """Image ``i``: id, file name and size."""
        start = 0 if i == 0 else int(self.name_ends[i - 1])
        name = self.names[start : self.name_ends[i]].tobytes().decode("utf-8", "surrogatepass")
        height, width = self.sizes[i].tolist()
        return ImageInfo(int(self.image_ids[i]), name, height, width)

    def counts(self) -> npt.NDArray[np.int64]:
        """How many training annotations each image has: int64 [N]."""
        return np.diff(self.ends, prepend=0)

    def labelled_keypoints(self) -> npt.NDArray[np.int64]:
        """How many labelled keypoints each image has: int64 [N]."""
        visible = (self.keypoints[self.rows, :, 2] > 0).sum(1)
        before = np.concatenate(([0], np.cumsum(visible, dtype=np.int64)))
        return np.diff(before[self.ends], prepend=0)

    def targets(self, i: int) -> Targets:
        """The ground truth of image ``i`` in the original frame."""
        rows = self.rows[0 if i == 0 else self.ends[i - 1] : self.ends[i]]
        return Targets(
            torch.from_numpy(self.boxes[rows]),
            torch.from_numpy(self.labels[rows].astype(np.int64)),
            self._masks(rows, *self.sizes[i].tolist()) if self.masks else None,
            torch.from_numpy(self.annotation_ids[rows]),
            None if self.keypoint_schema is None else torch.from_numpy(self.keypoints[rows]),
        )

    def _masks(self, rows: npt.NDArray[np.int64], height: int, width: int) -> InstanceMasks:
        points: list[npt.NDArray[np.float64]] = []
        sizes: list[npt.NDArray[np.int32]] = []
        instance_ends: list[int] = []
        rles: list[rle.RLE | None] = []
        polygons = 0
        for row in rows.tolist():
            data = slice(int(self.data_starts[row]), int(self.data_ends[row]))
            if self.kinds[row] == _RLE:
                rles.append({"size": [height, width], "counts": self.texts[data].tobytes()})
            else:
                rles.append(None)
                exact = self.kinds[row] == _HUNDREDTHS
                points.append(self.hundredths[data] / 100.0 if exact else self.floats[data])
                first = 0 if row == 0 else int(self.polygon_ends[row - 1])
                sizes.append(self.polygon_sizes[first : self.polygon_ends[row]])
                polygons += len(sizes[-1])
            instance_ends.append(polygons)
        return InstanceMasks.from_packed(
            height,
            width,
            np.concatenate(points).reshape(-1, 2) if points else np.zeros((0, 2)),
            np.cumsum(np.concatenate(sizes), dtype=np.int64) if sizes else np.zeros(0, dtype=np.int64),
            np.asarray(instance_ends, dtype=np.int64),
            rles,
        )


def read_annotations(
    path: Path,
    report: FaultReport,
    *,
    masks: bool = True,
    keypoints: bool = False,
    keypoint_offset: float = 0.5,
    categories: Categories | None = None,
) -> AnnotationIndex:
    """Read and check a COCO json.

    report: takes the faulty annotations, which are then left out.
    masks: read segmentations too; an annotation without one is then a fault.
    keypoints: read keypoints too; an annotation without any has none labelled, which is no fault.
    keypoint_offset: added to their x and y, see ``CocoConfig``.
    categories: the classes that the file must share (those of the training data).

    Raises:
        DataError: the file is missing or no COCO json, an image or category record is faulty, the classes
            differ from ``categories``, no class defines keypoints though they are wanted; or an annotation
            is faulty and the report is told to raise.
    """
    content = load_coco(path)
    own = read_categories(content["categories"], path)
    if categories is not None and categories != own:
        raise DataError(
            f"{path}: its categories differ from those of the training data: {difference(own, categories)}"
        )
    images = ImageRecords(content["images"], path)
    schema = read_keypoint_schema(content["categories"], path) if keypoints else None
    packer = _Packer(path, images, own, report, masks, schema, keypoint_offset)
    for number, record in enumerate(content["annotations"]):
        packer.add(record, number)
    return packer.finish()


class _Packer:
    """Checks annotations one by one and packs them."""

    def __init__(
        self,
        path: Path,
        images: ImageRecords,
        categories: Categories,
        report: FaultReport,
        masks: bool,
        schema: KeypointSchema | None,
        keypoint_offset: float,
    ) -> None:
        self.path, self.images, self.categories = path, images, categories
        self.report, self.masks, self.schema, self.keypoint_offset = report, masks, schema, keypoint_offset
        self.keypoints = array("f")
        self.seen: set[int] = set()
        self.image, self.ids, self.labels = array("q"), array("q"), array("i")
        self.boxes, self.kinds = array("f"), array("B")
        self.starts, self.ends = array("q"), array("q")
        self.polygon_ends, self.polygon_sizes = array("q"), array("i")
        self.hundredths, self.floats, self.texts = array("i"), array("d"), bytearray()

    def add(self, record: Any, number: int) -> None:
        """Check annotation ``number`` of the list; keep it, or report its fault."""
        where = f"{self.path}: annotation {number} of the list"
        if isinstance(record, dict) and type(record.get("id")) is int:
            where = f"{self.path}: annotation {record['id']} (image {record.get('image_id')})"
        try:
            self._add(record)
        except FaultError as fault:
            self.report.annotation(fault.kind, f"{where}: {fault}")

    def _add(self, record: Any) -> None:
        check_record(record)
        if record["id"] in self.seen:
            raise FaultError("repeated id", "another annotation has the same id")
        self.seen.add(record["id"])
        if record["image_id"] not in self.images.index:
            raise FaultError("unknown image", f"there is no image with the id {record['image_id']}")
        if record["category_id"] not in self.categories:
            raise FaultError("unknown category", f"there is no category with the id {record['category_id']}")
        image = self.images.index[record["image_id"]]
        height, width = self.images.sizes[image].tolist()
        box = check_box(record, height, width)
        polygons, text = check_mask(record, height, width) if self.masks else ([], None)
        points = [] if self.schema is None else check_keypoints(record, len(self.schema))
        if record.get("iscrowd", 0):
            return  # a crowd region never trains; evaluation reads it from the file
        self.image.append(image)
        self.ids.append(record["id"])
        self.labels.append(self.categories.index_of(record["category_id"]))
        self.boxes.extend(box)
        self.keypoints.extend(points)
        self._pack(polygons, text)

    def _pack(self, polygons: Sequence[array[float]], text: bytes | None) -> None:
        if text is not None:
            self.kinds.append(_RLE)
            self.starts.append(len(self.texts))
            self.texts += text
            self.ends.append(len(self.texts))
        elif polygons:
            values = np.concatenate([np.frombuffer(p) for p in polygons])
            rounded = np.rint(values * 100)
            if np.abs(rounded).max() < 2**31 and np.array_equal(rounded / 100, values):
                self.kinds.append(_HUNDREDTHS)
                self.starts.append(len(self.hundredths))
                self.hundredths.frombytes(rounded.astype(np.int32).tobytes())
                self.ends.append(len(self.hundredths))
            else:
                self.kinds.append(_FLOATS)
                self.starts.append(len(self.floats))
                self.floats.frombytes(values.tobytes())
                self.ends.append(len(self.floats))
            self.polygon_sizes.extend(len(p) // 2 for p in polygons)
        else:
            self.kinds.append(_NO_MASK)
            self.starts.append(0)
            self.ends.append(0)
        self.polygon_ends.append(len(self.polygon_sizes))

    def finish(self) -> AnnotationIndex:
        image = np.array(self.image, dtype=np.int64)
        joints = 0 if self.schema is None else len(self.schema)
        keypoints = np.array(self.keypoints, dtype=np.float32).reshape(len(image), joints, 3)
        keypoints[..., :2] += self.keypoint_offset
        keypoints[keypoints[..., 2] == 0] = 0
        return AnnotationIndex(
            categories=self.categories,
            image_ids=self.images.ids,
            sizes=self.images.sizes,
            names=self.images.names,
            name_ends=self.images.name_ends,
            ends=np.cumsum(np.bincount(image, minlength=len(self.images.ids)), dtype=np.int64),
            rows=np.argsort(image, kind="stable"),
            annotation_ids=np.array(self.ids, dtype=np.int64),
            labels=np.array(self.labels, dtype=np.int32),
            boxes=np.array(self.boxes, dtype=np.float32).reshape(-1, 4),
            kinds=np.array(self.kinds, dtype=np.uint8),
            data_starts=np.array(self.starts, dtype=np.int64),
            data_ends=np.array(self.ends, dtype=np.int64),
            polygon_ends=np.array(self.polygon_ends, dtype=np.int64),
            polygon_sizes=np.array(self.polygon_sizes, dtype=np.int32),
            hundredths=np.array(self.hundredths, dtype=np.int32),
            floats=np.array(self.floats, dtype=np.float64),
            texts=np.frombuffer(bytes(self.texts), dtype=np.uint8),
            masks=self.masks,
            keypoints=keypoints,
            keypoint_schema=self.schema,
        )
