"""A COCO json as a few flat arrays.

Worker processes share the arrays as they are (a forked process copies only pages that it writes, and
reading a Python object writes its reference count, but reading an array's contents does not), so memory
stays flat however many workers and epochs there are.

Legend: N = images, A = annotations (faulty ones are not among them), T = those that train (crowd regions
are not among them), J = keypoints an instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.structures import ImageInfo, InstanceMasks, KeypointSchema, Targets, rle
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.ground_truth import GroundTruth

# How an annotation's mask is stored: as polygons in hundredths of a pixel, exact for what COCO's own
# files hold, at half the memory; as polygons in float64 where hundredths are not exact; as RLE text.
NO_MASK, HUNDREDTHS, FLOATS, CODES = range(4)


@dataclass(frozen=True)
class AnnotationIndex:
    """All images and sound annotations of one file, images by rising id.

    image_ids: int64 [N].  sizes: int32 [N, 2] (height, width), original frame, pixels.
    ends: int64 [N], where the annotations that train of each image end in ``rows``, int64 [T].
    The other arrays are in the order of the file; ``rows`` points into them.
    numbers: int32 [A], the place of each in the file's list, in which faulty ones count.
    images: int32 [A], place of each one's image.  crowds: bool [A].
    boxes: float64 [A, 4], x, y, width, height as the file has them, may overhang by a pixel.
    areas: float64 [A], as the file states them, NaN where it does not.
    keypoints: float32 [A, J, 3], x, y, v as the file has them; J = 0 where they were not asked for.
    labelled: int32 [A], keypoints that count.
    keypoint_schema: their names, or None.  keypoint_offset: added to x and y in targets.
    dropped_images: ids of image records that were left out.
    root_class: index of a class that all others name as their group ('supercategory') and that no annotation
        has; None where there is none.
    """

    source: str
    categories: Categories
    image_ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    names: npt.NDArray[np.uint8]
    name_ends: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    annotation_ids: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int32]
    images: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.uint8]
    data_starts: npt.NDArray[np.int64]
    data_ends: npt.NDArray[np.int64]
    polygon_ends: npt.NDArray[np.int64]
    polygon_sizes: npt.NDArray[np.int32]
    hundredths: npt.NDArray[np.int32]
    floats: npt.NDArray[np.float64]
    texts: npt.NDArray[np.uint8]
    masks: bool
    keypoints: npt.NDArray[np.float64]
    labelled: npt.NDArray[np.int32]
    keypoint_schema: KeypointSchema | None
    keypoint_offset: float
    dropped_images: frozenset[int]
    root_class: int | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, in bytes."""
        return sum(v.nbytes for v in vars(self).values() if isinstance(v, np.ndarray))

    def info(self, i: int) -> ImageInfo:
        """Image ``i``: id, file name and size."""
        start = 0 if i == 0 else int(self.name_ends[i - 1])
        name = self.names[start : self.name_ends[i]].tobytes().decode("utf-8", "surrogateescape")
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
        """The ground truth of image ``i`` in the original frame: boxes clipped to it, crowds left out."""
        rows = self.rows[0 if i == 0 else self.ends[i - 1] : self.ends[i]]
        height, width = self.sizes[i].tolist()
        boxes = self.boxes[rows]
        boxes[:, 2:] += boxes[:, :2]
        points = self.keypoints[rows].astype(np.float32)
        points[..., :2] += self.keypoint_offset
        points[points[..., 2] == 0] = 0  # not labelled
        return Targets(
            torch.from_numpy(np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)),
            torch.from_numpy(self.labels[rows].astype(np.int64)),
            self._masks(rows, height, width) if self.masks else None,
            torch.from_numpy(self.annotation_ids[rows]),
            None if self.keypoint_schema is None else torch.from_numpy(points),
        )

    def ground_truth(self, notes: Sequence[str] = ()) -> GroundTruth:
        """All images and annotations, crowds among them, for evaluation; shares memory with this index."""
        return GroundTruth(
            source=self.source,
            image_ids=self.image_ids,
            sizes=self.sizes.astype(np.int64),
            category_ids=self.categories.ids,
            category_names=self.categories.names,
            annotation_ids=self.annotation_ids,
            images=self.images.astype(np.int64),
            labels=self.labels.astype(np.int64),
            boxes=self.boxes,
            areas=self.areas,
            crowds=self.crowds,
            encode=self._encode if self.masks else None,
            outline=self._outline if self.masks else None,
            keypoints=self.keypoints.reshape(len(self.keypoints), -1) if self.keypoints.size else None,
            labelled=self.labelled.astype(np.int64),
            dropped_images=self.dropped_images,
            notes=tuple(notes),
        )

    def polygon_stores(self) -> tuple[tuple[npt.NDArray[np.bool_], npt.NDArray[Any], float], ...]:
        """Where polygons lie: the annotations of a store, bool [A], its flat x, y in a row, units a pixel."""
        return (
            (self.kinds == HUNDREDTHS, self.hundredths, 100.0),
            (self.kinds == FLOATS, self.floats, 1.0),
        )

    def run_lengths(self) -> npt.NDArray[np.bool_]:
        """Whose mask is a run-length code: bool [A]."""
        found: npt.NDArray[np.bool_] = self.kinds == CODES
        return found

    def _encode(self, row: int) -> rle.RLE:
        """The mask of one annotation."""
        return self._code(row) or rle.from_polygons(self._parts(row), *self.sizes[self.images[row]].tolist())

    def _code(self, row: int) -> rle.RLE | None:
        """The mask of one annotation, None where it is polygons."""
        if self.kinds[row] != CODES:
            return None
        text = self.texts[self.data_starts[row] : self.data_ends[row]].tobytes()
        return {"size": self.sizes[self.images[row]].tolist(), "counts": text}

    def _outline(self, row: int) -> list[list[float]] | None:
        """The polygons of one annotation, None where its mask is an RLE."""
        return None if self.kinds[row] == CODES else [part.tolist() for part in self._parts(row)]

    def _parts(self, row: int) -> list[npt.NDArray[np.float64]]:
        points, sizes = self._polygons(row)
        return np.split(points, 2 * np.cumsum(sizes)[:-1]) if len(sizes) > 1 else [points]

    def _polygons(self, row: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        """Flat x, y of all polygons of an annotation, and the points of each."""
        data = slice(int(self.data_starts[row]), int(self.data_ends[row]))
        exact = self.kinds[row] == HUNDREDTHS
        first = 0 if row == 0 else int(self.polygon_ends[row - 1])
        points = self.hundredths[data] / 100.0 if exact else self.floats[data]
        return points, self.polygon_sizes[first : self.polygon_ends[row]]

    def _masks(self, rows: npt.NDArray[np.int64], height: int, width: int) -> InstanceMasks:
        codes = [self._code(row) for row in rows.tolist()]
        nothing = np.zeros(0), np.zeros(0, dtype=np.int32)
        drawn = [
            self._polygons(row) if code is None else nothing
            for row, code in zip(rows.tolist(), codes, strict=True)
        ]
        points, sizes = (np.concatenate(parts) for parts in zip(nothing, *drawn, strict=True))
        ends = np.cumsum([len(parts) for _, parts in drawn], dtype=np.int64)
        polygon_ends = np.cumsum(sizes, dtype=np.int64)
        return InstanceMasks(height, width, points.reshape(-1, 2), polygon_ends, ends, codes)
