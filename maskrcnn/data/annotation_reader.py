"""A COCO json is read, checked, and packed into the arrays of an :class:`AnnotationIndex`."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.fault_report import FaultError, FaultReport
from maskrcnn.data.formats.checks import Mask, check_area, check_box, check_ids, check_keypoints, check_mask
from maskrcnn.data.formats.coco_json import (
    ImageRecords,
    as_id,
    brief,
    difference,
    load_coco,
    read_categories,
    read_keypoint_schema,
    root_class,
    uncollected,
)
from maskrcnn.data.formats.plain import ODD, PlainPolygons, annotation_columns, annotation_polygons, require
from maskrcnn.data.index import CODES, FLOATS, HUNDREDTHS, NO_MASK, AnnotationIndex
from maskrcnn.errors import DataError
from maskrcnn.structures import KeypointSchema
from maskrcnn.structures.categories import Categories

#: So many annotations are looked at in one go, and if need be in halves down to so few.
_AT_ONCE, _ONE_BY_ONE = 4096, 8


def read_annotations(
    source: Path | Mapping[str, Any],
    report: FaultReport,
    *,
    masks: bool = True,
    keypoints: bool = False,
    keypoint_offset: float = 0.5,
    categories: Categories | None = None,
    files: bool = True,
) -> AnnotationIndex:
    """Read and check a COCO json.

    source: the file, or what ``json.load`` makes of it, which is not modified.
    report: takes the faulty records, which are then left out, and what was mended; says what messages name.
    masks: read segmentations too; an annotation without one is then a fault.
    keypoints: read keypoints too; an annotation without any has none labelled, which is no fault.
    keypoint_offset: added to their x and y, see ``CocoConfig``.
    categories: the classes that the file must share (those of the training data).
    files: whether an image record needs a file name; False: only where another record has one, so that what a
        data set leaves out, an evaluation of its file leaves out too.

    Raises:
        DataError: the file is missing or no COCO json, a category record is faulty, an id stands for two
            images, the classes differ from ``categories``, no class defines keypoints though they are
            wanted; or a record is faulty and the report is told to raise.
    """
    name = report.where
    content = load_coco(source, name)
    own = read_categories(content["categories"], name)
    if categories is not None and categories != own:
        raise DataError(
            f"{name}: its categories differ from those of the training data: {difference(own, categories)}"
        )
    files = files or any(isinstance(r, Mapping) and r.get("file_name") for r in content["images"])
    images = ImageRecords(content["images"], name, report, files=files)
    schema = read_keypoint_schema(content["categories"], name) if keypoints else None
    packer = _Packer(name, images, own, report, masks, schema, keypoint_offset)
    annotations = content["annotations"]
    with uncollected():
        for first in range(0, len(annotations), _AT_ONCE):
            packer.extend(annotations[first : first + _AT_ONCE], first)
    index = packer.finish()
    return replace(index, root_class=root_class(content["categories"], own, np.unique(index.labels).tolist()))


def _has_polygons(record: Any) -> bool:
    """Whether an annotation may be one of many that are looked at in one go."""
    return isinstance(record, dict) and type(record.get("segmentation")) is list


def _where(record: Any, number: int) -> str:
    """What a message calls an annotation."""
    if isinstance(record, Mapping) and as_id(record.get("id")) is not None:
        return f"annotation {as_id(record['id'])} (image {brief(record.get('image_id'))})"
    return f"annotation {number} of the list"


def _id_of(record: Any) -> int | None:
    return as_id(record.get("id")) if isinstance(record, Mapping) else None


class _Packer:
    """Checks annotations and packs them: where they are plain and sound many in one go, else one by one."""

    def __init__(
        self,
        name: str,
        records: ImageRecords,
        categories: Categories,
        report: FaultReport,
        masks: bool,
        schema: KeypointSchema | None,
        keypoint_offset: float,
    ) -> None:
        self.name, self.records, self.categories = name, records, categories
        self.report, self.masks, self.schema, self.keypoint_offset = report, masks, schema, keypoint_offset
        self.seen: set[int] = set()
        self.to_number: list[tuple[int, str]] = []
        # Columns by the names that they have in the index.
        self.annotation_ids, self.images, self.labels = array("q"), array("i"), array("i")
        self.numbers = array("i")
        self.boxes, self.areas, self.crowds = array("d"), array("d"), array("B")
        self.keypoints, self.labelled = array("d"), array("i")
        self.kinds, self.data_starts, self.data_ends = array("B"), array("q"), array("q")
        self.polygon_ends, self.polygon_sizes = array("q"), array("i")
        self.hundredths, self.floats, self.texts = array("i"), array("d"), array("B")

    def extend(self, records: list[Any], number: int) -> None:
        """:meth:`add` for each of ``records``, the first of which is annotation ``number`` of the list."""
        for _, run in groupby(records, lambda r: not self.masks or _has_polygons(r)):
            found = list(run)
            self._extend(found, number)
            number += len(found)

    def _extend(self, records: list[Any], number: int) -> None:
        if len(records) > _ONE_BY_ONE:
            try:
                self._extend_plain(records, number)
            except ODD:
                half = len(records) // 2
                self._extend(records[:half], number)
                self._extend(records[half:], number + half)
        else:
            for k, record in enumerate(records):
                self.add(record, number + k)

    def _extend_plain(self, records: list[Any], number: int) -> None:
        """All or nothing of records that are plain and sound.

        Raises:
            those of ``ODD``: they are not.
        """
        ids, sizes = self.records.ids, self.records.sizes
        joints = 0 if self.schema is None else len(self.schema)
        columns = annotation_columns(records, ids, sizes, np.array(self.categories.ids), joints)
        polygons = annotation_polygons(records, sizes[columns["images"]]) if self.masks else None
        fresh = set(columns["annotation_ids"].tolist())
        require(len(fresh) == len(records) and self.seen.isdisjoint(fresh))
        self.seen |= fresh
        for name, values in columns.items():
            getattr(self, name).frombytes(values.tobytes())
        self.numbers.extend(range(number, number + len(records)))
        if polygons is None:
            for _ in records:
                self._pack(Mask())
        else:
            self._pack_polygons(polygons)

    def add(self, record: Any, number: int) -> None:
        """Check annotation ``number`` of the list; keep it, or report its fault."""
        mended: list[str] = []
        try:
            self._add(record, number, mended)
        except FaultError as fault:
            self.report.annotation(
                fault.kind, f"{self.name}: {_where(record, number)}: {fault}", _id_of(record)
            )
        else:
            self.numbers.append(number)
            for what in mended:
                self.report.mend(what, _where(record, number), _id_of(record))

    def _add(self, record: Any, number: int, mended: list[str]) -> None:
        ids = check_ids(record, mended)
        if ids.image not in self.records.index:
            known = ids.image in self.records.dropped
            reason = "that of its image is faulty" if known else f"there is no image with the id {ids.image}"
            raise FaultError("image left out" if known else "unknown image", reason)
        if ids.category not in self.categories:
            raise FaultError("unknown category", f"there is no category with the id {ids.category}")
        image = self.records.index[ids.image]
        height, width = self.records.sizes[image].tolist()
        mask = None
        if self.masks:
            mask = check_mask(record, height, width, mended)
        elif record.get("bbox") is None and record.get("segmentation"):
            with contextlib.suppress(FaultError):  # then the box is told to be missing
                mask = check_mask(record, height, width, mended)
        box = check_box(record, height, width, mask, mended)
        area = check_area(record, mended)
        points = [] if self.schema is None else check_keypoints(record, len(self.schema))
        # From here on nothing fails.
        if ids.annotation is None or ids.annotation in self.seen:
            self.to_number.append((len(self.annotation_ids), _where(record, number)))
        else:
            self.seen.add(ids.annotation)
        self.annotation_ids.append(ids.annotation or 0)
        self.images.append(image)
        self.labels.append(self.categories.index_of(ids.category))
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowds.append(ids.crowd)
        self.keypoints.extend(points)
        stated = record.get("num_keypoints")
        labelled = sum(v > 0 for v in points[2::3])
        self.labelled.append(stated if type(stated) is int and 0 <= stated < 2**31 else labelled)
        self._pack(mask if self.masks and mask is not None else Mask())

    def _number_anew(self) -> None:
        """Ids above all others for annotations whose own repeat, or are missing or no integers."""
        fresh = max(self.seen, default=0) + 1
        for place, where in self.to_number:
            while not 0 < fresh < 2**63 or fresh in self.seen:
                fresh = 1 if not 0 < fresh < 2**63 - 1 else fresh + 1
            self.seen.add(fresh)
            self.annotation_ids[place] = fresh
            self.report.mend("annotation ids missing or repeated, numbered anew", where, fresh)

    def _pack(self, mask: Mask) -> None:
        store: array[Any] = self.texts
        kind, data = NO_MASK, b""
        if mask.counts is not None:
            kind, data = CODES, mask.counts
        elif mask.polygons:
            values = np.concatenate([np.frombuffer(p) for p in mask.polygons])
            rounded = np.rint(values * 100)
            kind, store, data = FLOATS, self.floats, values.tobytes()
            if np.abs(rounded).max() < 2**31 and np.array_equal(rounded / 100, values):
                kind, store, data = HUNDREDTHS, self.hundredths, rounded.astype(np.int32).tobytes()
        self.kinds.append(kind)
        self.data_starts.append(len(store))
        store.frombytes(data)
        self.data_ends.append(len(store))
        self.polygon_sizes.extend(len(p) // 2 for p in mask.polygons)
        self.polygon_ends.append(len(self.polygon_sizes))

    def _pack_polygons(self, polygons: PlainPolygons) -> None:
        """:meth:`_pack` for many."""
        values, sizes = polygons.points.reshape(-1), 2 * polygons.sums()
        rounded = np.rint(values * 100)
        same = (np.abs(rounded) < 2**31) & (rounded / 100 == values)
        exact = np.logical_and.reduceat(same, np.cumsum(sizes) - sizes)
        chosen = np.repeat(exact, sizes)
        ends = np.where(
            exact,
            len(self.hundredths) + np.cumsum(np.where(exact, sizes, 0)),
            len(self.floats) + np.cumsum(np.where(exact, 0, sizes)),
        )
        self.hundredths.frombytes(rounded[chosen].astype(np.int32).tobytes())
        self.floats.frombytes(values[~chosen].tobytes())
        self.kinds.frombytes(np.where(exact, HUNDREDTHS, FLOATS).astype(np.uint8).tobytes())
        self.data_starts.frombytes((ends - sizes).tobytes())
        self.data_ends.frombytes(ends.tobytes())
        self.polygon_ends.frombytes((len(self.polygon_sizes) + np.cumsum(polygons.counts)).tobytes())
        self.polygon_sizes.frombytes(polygons.sizes.astype(np.int32).tobytes())

    def finish(self) -> AnnotationIndex:
        self._number_anew()
        columns: dict[str, Any] = {n: np.array(v) for n, v in vars(self).items() if isinstance(v, array)}
        columns["boxes"] = columns["boxes"].reshape(-1, 4)
        columns["crowds"] = columns["crowds"].astype(np.bool_)
        joints = 0 if self.schema is None else len(self.schema)
        columns["keypoints"] = columns["keypoints"].reshape(len(self.images), joints, 3)
        training = np.flatnonzero(~columns["crowds"])  # a crowd region never trains
        image = columns["images"][training]
        count = np.bincount(image, minlength=len(self.records.ids))
        return AnnotationIndex(
            source=self.name,
            categories=self.categories,
            image_ids=self.records.ids,
            sizes=self.records.sizes,
            names=self.records.names,
            name_ends=self.records.name_ends,
            ends=np.cumsum(count, dtype=np.int64),
            rows=training[np.argsort(image, kind="stable")],
            masks=self.masks,
            keypoint_schema=self.schema,
            keypoint_offset=self.keypoint_offset,
            dropped_images=self.records.dropped,
            **columns,
        )
