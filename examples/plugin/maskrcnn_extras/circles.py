"""A data set: images and a CSV file of circles, ``file,class,x,y,radius`` pixels, as colony counters have."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.config import Config
from maskrcnn.data import DATASETS, Categories, CocoDataset, OnError
from maskrcnn.data.images import read_image
from maskrcnn.errors import DataError

#: Corners of the polygon that stands for a circle.
CORNERS = 32


@DATASETS.register("circles")
@dataclass(frozen=True, kw_only=True)
class CirclesConfig(Config):
    """The records that a COCO json would hold, made in memory: checks, doubts and figures are the same."""

    #: Where the images lie.
    images: Path
    #: The CSV file.
    table: Path
    #: Names of the classes.
    classes: tuple[str, ...]

    def build(
        self, training: bool, *, categories: Categories | None = None, on_error: OnError = None
    ) -> CocoDataset:
        """
        Raises:
            DataError: a row is wrong, by its line; an image cannot be read.
        """
        ids: dict[str, int] = {}
        images, annotations = [], []
        for line, row in self._rows():
            if row["file"] not in ids:
                ids[row["file"]] = len(ids) + 1
                height, width = read_image(self.images / row["file"]).shape[:2]
                size = {"height": height, "width": width}
                images.append({"id": ids[row["file"]], "file_name": row["file"], **size})
            try:
                category = 1 + self.classes.index(row["class"])
                x, y, r = (float(row[name]) for name in ("x", "y", "radius"))
            except ValueError as error:
                raise DataError(f"{self.table}:{line}: {error}; write: file,class,x,y,radius") from None
            turns = [2 * math.pi * k / CORNERS for k in range(CORNERS)]
            outline = [v for turn in turns for v in (x + r * math.cos(turn), y + r * math.sin(turn))]
            box = {"bbox": [x - r, y - r, 2 * r, 2 * r], "segmentation": [outline]}
            numbers = {"id": len(annotations) + 1, "image_id": ids[row["file"]], "category_id": category}
            annotations.append(numbers | box)
        names = [{"id": i, "name": name} for i, name in enumerate(self.classes, start=1)]
        records = {"images": images, "annotations": annotations, "categories": names}
        kept: dict[str, Any] = {"training": training, "categories": categories, "on_error": on_error}
        return CocoDataset(self.images, self.table, records=records, **kept)

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        try:
            with self.table.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                if not {"file", "class", "x", "y", "radius"} <= set(reader.fieldnames or ()):
                    raise DataError(f"{self.table}:1: the first line must be: file,class,x,y,radius")
                yield from enumerate(reader, start=2)
        except OSError as error:
            raise DataError(f"{self.table}: cannot be read: {error.strerror}") from None
