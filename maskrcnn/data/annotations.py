"""A COCO json as a few flat arrays.

Worker processes share the arrays as they are (a forked process copies only pages that it writes, and
reading a Python object writes its reference count, but reading an array's contents does not), so memory
stays flat however many workers and epochs there are.

Legend: N = images, A = annotations that train (crowd regions and faulty ones are not among them).
"""

from __future__ import annotations

import contextlib
import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data.categories import Categories
from maskrcnn.data.report import FaultReport
from maskrcnn.errors import DataError
from maskrcnn.structures import ImageInfo, InstanceMasks, Targets, rle

#: A box may reach this many pixels over the image's edge and is clipped; beyond, it is a fault.
OVERHANG = 1.0
# How an annotation's mask is stored: as polygons in hundredths of a pixel, exact for what COCO's own
# files hold, at half the memory; as polygons in float64 where hundredths are not exact; as RLE text.
_NO_MASK, _HUNDREDTHS, _FLOATS, _RLE = range(4)


@dataclass(frozen=True)
class AnnotationIndex:
    """All images and training annotations of one file, images by rising id.

    image_ids: int64 [N].  sizes: int32 [N, 2] (height, width), original frame, pixels.
    ends: int64 [N], where the annotations of each image end in ``rows``, int64 [A].
    The other arrays are in the order of the file; ``rows`` points into them.
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

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, in bytes."""
        return sum(v.nbytes for v in vars(self).values() if isinstance(v, np.ndarray))

    def info(self, i: int) -> ImageInfo:
        """Image ``i``: id, file name and size."""
        start = 0 if i == 0 else int(self.name_ends[i - 1])
        name = self.names[start : self.name_ends[i]].tobytes().decode()
        height, width = self.sizes[i].tolist()
        return ImageInfo(int(self.image_ids[i]), name, height, width)

    def counts(self) -> npt.NDArray[np.int64]:
        """How many training annotations each image has: int64 [N]."""
        return np.diff(self.ends, prepend=0)

    def targets(self, i: int) -> Targets:
        """The ground truth of image ``i`` in the original frame."""
        rows = self.rows[0 if i == 0 else self.ends[i - 1] : self.ends[i]]
        return Targets(
            torch.from_numpy(self.boxes[rows]),
            torch.from_numpy(self.labels[rows].astype(np.int64)),
            self._masks(rows, *self.sizes[i].tolist()) if self.masks else None,
            torch.from_numpy(self.annotation_ids[rows]),
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
    path: Path, report: FaultReport, *, masks: bool = True, categories: Categories | None = None
) -> AnnotationIndex:
    """Read and check a COCO json.

    report: takes the faulty annotations, which are then left out.
    masks: read segmentations too; an annotation without one is then a fault.
    categories: the classes that the file must share (those of the training data).

    Raises:
        DataError: the file is missing or no COCO json, an image or category record is faulty, the classes
            differ from ``categories``; or an annotation is faulty and the report is told to raise.
    """
    content = _load(path)
    own = _read_categories(content["categories"], path)
    if categories is not None and categories != own:
        raise DataError(
            f"{path}: its categories differ from those of the training data: {_difference(own, categories)}"
        )
    images = _Images(content["images"], path)
    packer = _Packer(path, images, own, report, masks)
    for number, record in enumerate(content["annotations"]):
        packer.add(record, number)
    return packer.finish()


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such annotation file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    try:
        content = json.loads(text, object_hook=_compact)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: the json is broken: {error.msg}; is the file complete?"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: the json is nested too deeply to be a COCO file") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: a COCO file is a json object, this is a {_type(content)}")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise DataError(f"{path}: a COCO file needs the key {key!r}; it has {sorted(content)}")
        if not isinstance(content[key], list):
            raise DataError(f"{path}: {key!r} must be a list, it is a {_type(content[key])}")
    return content


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Polygons as arrays while the json is still being read: a tenth of the memory of lists of floats."""
    segmentation = record.get("segmentation")
    if type(segmentation) is list:
        # Where not all are numbers, the check of the annotation says so.
        with contextlib.suppress(TypeError, OverflowError):
            record["segmentation"] = [array("d", p) if type(p) is list else p for p in segmentation]
    return record


def _type(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")


def _read_categories(records: list[Any], path: Path) -> Categories:
    found: dict[int, str] = {}
    for number, record in enumerate(records):
        where = f"{path}: category {number} of the list"
        if not isinstance(record, dict) or type(record.get("id")) is not int:
            raise DataError(f"{where}: it needs an 'id' that is an integer")
        if type(record.get("name")) is not str:
            raise DataError(f"{where} (id {record['id']}): it needs a 'name' that is a text")
        if record["id"] in found:
            raise DataError(
                f"{where}: the id {record['id']} is taken by {found[record['id']]!r};"
                f" give {record['name']!r} another"
            )
        found[record["id"]] = record["name"]
    if not found:
        raise DataError(f"{path}: it has no categories")
    ids = tuple(sorted(found))
    return Categories(ids, tuple(found[i] for i in ids))


def _difference(own: Categories, wanted: Categories) -> str:
    a, b = dict(zip(own.ids, own.names, strict=True)), dict(zip(wanted.ids, wanted.names, strict=True))
    unlike = [
        f"id {i} is {a.get(i, 'missing')!r} here and {b.get(i, 'missing')!r} there"
        for i in sorted(a.keys() | b.keys())
        if a.get(i) != b.get(i)
    ]
    return "; ".join(unlike[:5]) + (f"; and {len(unlike) - 5} more" if len(unlike) > 5 else "")


class _Images:
    """The image records, checked, by rising id."""

    def __init__(self, records: list[Any], path: Path) -> None:
        seen: dict[int, tuple[str, int, int]] = {}
        for number, record in enumerate(records):
            if not isinstance(record, dict) or type(record.get("id")) is not int:
                raise DataError(f"{path}: image {number} of the list needs an 'id' that is an integer")
            where = f"{path}: image {record['id']}"
            if type(record.get("file_name")) is not str or not record["file_name"]:
                raise DataError(f"{where}: it needs a 'file_name' that is a text")
            for key in ("height", "width"):
                if type(record.get(key)) is not int or not 0 < record[key] < 2**31:
                    raise DataError(f"{where}: it needs a {key!r} that is an integer > 0")
            if record["id"] in seen:
                raise DataError(f"{where}: the id stands for two images, give each its own")
            seen[record["id"]] = (record["file_name"], record["height"], record["width"])
        order = sorted(seen)
        self.index = {image_id: i for i, image_id in enumerate(order)}
        self.ids = np.asarray(order, dtype=np.int64)
        self.sizes = np.asarray([seen[i][1:] for i in order], dtype=np.int32).reshape(-1, 2)
        names = [seen[i][0].encode() for i in order]
        self.names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self.name_ends = np.cumsum([len(n) for n in names], dtype=np.int64)


class _FaultError(Exception):
    """An annotation cannot be used: kind for counting, reason for the sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _Packer:
    """Checks annotations one by one and packs them."""

    def __init__(
        self, path: Path, images: _Images, categories: Categories, report: FaultReport, masks: bool
    ) -> None:
        self.path, self.images, self.categories, self.report, self.masks = (
            path,
            images,
            categories,
            report,
            masks,
        )
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
        except _FaultError as fault:
            self.report.annotation(fault.kind, f"{where}: {fault}")

    def _add(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise _FaultError("no record", f"it is a {_type(record)}, not an object")
        for key in ("id", "image_id", "category_id"):
            if key not in record:
                raise _FaultError("missing key", f"it has no {key!r}")
            if type(record[key]) is not int:
                raise _FaultError("wrong type", f"its {key!r} is {record[key]!r}, not an integer")
        if record["id"] in self.seen:
            raise _FaultError("repeated id", "another annotation has the same id")
        self.seen.add(record["id"])
        if record["image_id"] not in self.images.index:
            raise _FaultError("unknown image", f"there is no image with the id {record['image_id']}")
        if record["category_id"] not in self.categories:
            raise _FaultError("unknown category", f"there is no category with the id {record['category_id']}")
        if record.get("iscrowd", 0) not in (0, 1):
            raise _FaultError("wrong type", f"its 'iscrowd' is {record['iscrowd']!r}, not 0 or 1")
        image = self.images.index[record["image_id"]]
        height, width = self.images.sizes[image].tolist()
        box = _check_box(record, height, width)
        polygons, text = self._check_mask(record, height, width)
        if record.get("iscrowd", 0):
            return  # a crowd region never trains; evaluation reads it from the file
        self.image.append(image)
        self.ids.append(record["id"])
        self.labels.append(self.categories.index_of(record["category_id"]))
        self.boxes.extend(box)
        self._pack(polygons, text)

    def _check_mask(
        self, record: dict[str, Any], height: int, width: int
    ) -> tuple[list[array[float]], bytes | None]:
        """The polygons, or the RLE text, of an annotation."""
        segmentation = record.get("segmentation")
        if not self.masks:
            return [], None
        if not segmentation:
            raise _FaultError(
                "no mask", "it has no 'segmentation' (a data set of boxes alone: set masks: false)"
            )
        if isinstance(segmentation, dict):
            try:
                text: bytes = rle.normalise(segmentation, height, width)["counts"]
            except ValueError as error:
                raise _FaultError("broken RLE", str(error)) from None
            return [], text
        if not isinstance(segmentation, list):
            raise _FaultError("wrong type", f"its 'segmentation' is a {_type(segmentation)}")
        for polygon in segmentation:
            if not isinstance(polygon, array) or not all(map(math.isfinite, polygon)):
                raise _FaultError(
                    "wrong type", "a polygon in its 'segmentation' is not a list of finite numbers"
                )
            if len(polygon) % 2:
                raise _FaultError("broken polygon", f"a polygon has {len(polygon)} numbers, not (x, y) pairs")
            if len(polygon) < 6:
                raise _FaultError(
                    "polygon of fewer than 3 points",
                    f"a polygon has only {len(polygon) // 2} points, at least 3 are needed",
                )
        return segmentation, None

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
        )


def _check_box(record: dict[str, Any], height: int, width: int) -> tuple[float, float, float, float]:
    """The annotation's box as xyxy, clipped to the image."""
    box = record.get("bbox")
    if box is None:
        raise _FaultError("missing key", "it has no 'bbox'")
    if not isinstance(box, list) or len(box) != 4 or any(type(v) not in (int, float) for v in box):
        raise _FaultError("wrong type", f"its 'bbox' is {box!r}, not four numbers [x, y, width, height]")
    if not all(map(math.isfinite, box)):
        raise _FaultError("wrong type", f"its 'bbox' {box} holds a number that is not finite")
    x, y, w, h = box
    if w <= 0 or h <= 0:
        raise _FaultError("zero-area box", f"its box {box} [x, y, width, height] has no area")
    if max(-x, -y, x + w - width, y + h - height) > OVERHANG:
        raise _FaultError(
            "box outside the image", f"its box {box} [x, y, width, height] leaves the {width}x{height} image"
        )
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
        raise _FaultError(
            "box outside the image", f"nothing of its box {box} lies in the {width}x{height} image"
        )
    return x1, y1, x2, y2
