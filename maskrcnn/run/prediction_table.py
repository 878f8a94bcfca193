"""Instances as the rows of a table: of a data frame, of a CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from maskrcnn.inference.records import Result
from maskrcnn.structures import rle

#: What the records of every model have; further numbers come from heads of one's own.
_PLAIN = frozenset(("image_id", "category_id", "bbox", "score", "segmentation", "keypoints"))
#: Columns of a table of instances.
TABLE = (
    *("image_id", "file_name", "instance", "class", "category_id", "score"),
    *("x", "y", "width", "height", "area"),
)


def further_columns(records: Iterable[Result]) -> list[str]:
    """Names of the numbers that heads of one's own add to the records."""
    return sorted({key for record in records for key in record.keys() - _PLAIN})


def table_rows(records: Sequence[Result], classes: Sequence[str], file_name: str) -> Iterator[dict[str, Any]]:
    """An image's instances by the names of :data:`TABLE` and further numbers.

    instance: its place, from 1, the number of its pixels in a label image.  x, y, width, height: its box in
    pixels.  area: of its mask, pixels; of the box where there is none.
    """
    for number, (record, name) in enumerate(zip(records, classes, strict=True), start=1):
        x, y, w, h = record["bbox"]
        code = record.get("segmentation")
        area = w * h if code is None else rle.area(code)
        values = (record["image_id"], file_name, number, name, record["category_id"], record["score"])
        row = dict(zip(TABLE, (*values, x, y, w, h, area), strict=True))
        yield row | {key: record[key] for key in further_columns([record])}
