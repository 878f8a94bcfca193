"""Files that `maskrcnn predict` writes, by the names of ``--write``: of each image, and of all together."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.cvat_writer import CvatImage, CvatShape, write_cvat
from maskrcnn.data.formats.label_images import TABLE_FILE
from maskrcnn.data.formats.label_studio import label_studio_result, label_studio_task
from maskrcnn.data.formats.labelme import labelme_content, labelme_shape
from maskrcnn.data.formats.yolo import yolo_line, yolo_names
from maskrcnn.errors import OutputError
from maskrcnn.files import replacing, write_bytes, write_json, write_text
from maskrcnn.picture_files import encode_labels, write_image
from maskrcnn.run.label_tiles import write_label_tiles
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.prediction_journal import DoneImage
from maskrcnn.run.prediction_table import TABLE, further_columns, table_rows
from maskrcnn.viz.picture_names import PictureNames

#: Done when no ``--write`` says otherwise.
DEFAULT_WRITES = ("overlays", "coco")


@dataclass(frozen=True)
class Written:
    """An image and where its files go.

    found: what was found.  image: its file, absolute.  out: the folder of all results.
    picture: the name of its files, without suffix.
    style: arguments of :meth:`maskrcnn.run.prediction.Prediction.draw`.
    """

    found: Prediction
    image: Path
    out: Path
    picture: str
    style: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each instance's class."""
        return self.found.classes


#: What could not be written, and why.
Fault: TypeAlias = tuple[Path, Exception]
#: Writes the file, or the folder of files, of one image.
ImageWriter: TypeAlias = Callable[[Written, Path], None]
#: Writes the file of all images, which may be asked for several times, into the folder of results.
AllWriter: TypeAlias = Callable[[Callable[[], Iterator[DoneImage]], Sequence[str], Path], None]


def _overlays(image: Written, path: Path) -> None:
    write_image(path, image.found.draw(**image.style))


def _labels(image: Written, path: Path) -> None:
    """Of 16 bits; a TIFF of 32 in tiles where there are more objects, or the image was not held."""
    codes = image.found.rles
    if path.suffix == ".tiff" and codes is not None and (len(codes) >= 1 << 16 or image.found.image is None):
        write_label_tiles(path, codes, image.found.size)
        return
    write_bytes(path, encode_labels(image.found.to_label_image(), path.suffix))


def _polygons(image: Written, path: Path) -> None:
    with _replacing(path) as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(image.found.geojson_features()):
            file.write((",\n" if number else "\n") + json.dumps(feature))
        file.write("]}\n")


def _crops(image: Written, path: Path) -> None:
    """``0001_CLASS.png`` and so on, by the number of the instance."""
    names = PictureNames()
    for number, (crop, name) in enumerate(zip(image.found.crops(), image.classes, strict=True), start=1):
        file = names.take(f"{number:04d}_{name.replace('/', '_')}.png")
        if crop.size:
            write_image(path / f"{file}.png", crop)


def _yolo(image: Written, path: Path) -> None:
    found = image.found
    lines = [
        yolo_line(label, record["bbox"], record.get("segmentation"), found.size)
        for label, record in zip(found.labels.tolist(), found.records, strict=True)
    ]
    write_text(path, "".join(lines))


def _labelme(image: Written, path: Path) -> None:
    found = image.found
    shapes = [
        labelme_shape(
            name, record["bbox"], record.get("segmentation"), description=f"score {record['score']:.3f}"
        )
        for name, record in zip(image.classes, found.records, strict=True)
    ]
    name = shown(os.path.relpath(image.image.absolute(), path.parent.absolute()))
    write_json(path, labelme_content(name, *found.size, shapes), indent=2)


def _coco(images: Callable[[], Iterator[DoneImage]], names: Sequence[str], out: Path) -> None:
    """A list of results, each with the name of its image and of its class."""
    with _replacing(out / "predictions.json") as file:
        before = "["
        for image in images():
            frame = {} if image.frame is None else {"frame": image.frame}
            for record, name in zip(image.records, image.classes, strict=True):
                file.write(before)
                file.write(json.dumps({**record, **image.file_name, **frame, "category": name}))
                before = ", "
        file.write("[]" if before == "[" else "]")


def _csv(images: Callable[[], Iterator[DoneImage]], names: Sequence[str], out: Path) -> None:
    further = sorted({key for image in images() for key in further_columns(image.records)})
    frames = ["frame"] if any(image.frame is not None for image in images()) else []
    with _replacing(out / "predictions.csv") as file:
        table = csv.DictWriter(file, [*TABLE, *frames, *further], restval="", lineterminator="\n")
        table.writeheader()
        for image in images():
            number = {} if image.frame is None else {"frame": image.frame}
            for row in table_rows(image.records, image.classes, image.file_name["file_name"]):
                table.writerow(row | number)


def _label_table(
    images: Callable[[], Iterator[DoneImage]], names: Sequence[str], out: Path, suffix: str, folder: str
) -> None:
    """The class of each number of the label images, as `maskrcnn import` reads it."""
    with _replacing(out / folder / TABLE_FILE) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "value", "class", "crowd"))
        for image in images():
            for number, name in enumerate(image.classes, start=1):
                table.writerow((f"{image.picture}{suffix}", number, name, 0))


def _yolo_names(images: Callable[[], Iterator[DoneImage]], names: Sequence[str], out: Path) -> None:
    write_text(out / "yolo/data.yaml", yolo_names(names))


def _cvat(images: Callable[[], Iterator[DoneImage]], names: Sequence[str], out: Path) -> None:
    def listed() -> Iterator[CvatImage]:
        for number, image in enumerate(images()):
            shapes = [
                CvatShape(name, record["bbox"], record.get("segmentation"))
                for name, record in zip(image.classes, image.records, strict=True)
            ]
            yield CvatImage(number, image.below, image.height, image.width, shapes)

    with replacing(out / "cvat.xml") as file:
        write_cvat(file, names, listed())


def _label_studio(images: Callable[[], Iterator[DoneImage]], names: Sequence[str], out: Path) -> None:
    with _replacing(out / "labelstudio.json") as file:
        before = "["
        for image in images():
            size = (image.height, image.width)
            results = [
                label_studio_result(
                    number, name, record["score"], record["bbox"], record.get("segmentation"), size
                )
                for number, (name, record) in enumerate(
                    zip(image.classes, image.records, strict=True), start=1
                )
            ]
            file.write(before + json.dumps(label_studio_task(image.below, "maskrcnn", results)))
            before = ",\n"
        file.write("[]" if before == "[" else "]")


@contextmanager
def _replacing(path: Path) -> Iterator[io.TextIOWrapper]:
    """:func:`maskrcnn.files.replacing` for text; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()


#: By the name of ``--write``: the file of each image below the folder of results, and what writes it.
OF_EACH: Mapping[str, tuple[str, ImageWriter]] = {
    "overlays": ("{}.png", _overlays),
    "labels": ("labels/{}.png", _labels),
    "labels-tiff": ("labels-tiff/{}.tiff", _labels),
    "polygons": ("polygons/{}.geojson", _polygons),
    "crops": ("crops/{}", _crops),
    "yolo": ("yolo/labels/{}.txt", _yolo),
    "labelme": ("labelme/{}.json", _labelme),
}
#: And of all together: its file below the folder of results, and what writes it.
OF_ALL: Mapping[str, tuple[str, AllWriter]] = {
    "coco": ("predictions.json", _coco),
    "csv": ("predictions.csv", _csv),
    "labels": (f"labels/{TABLE_FILE}", partial(_label_table, suffix=".png", folder="labels")),
    "labels-tiff": (
        f"labels-tiff/{TABLE_FILE}",
        partial(_label_table, suffix=".tiff", folder="labels-tiff"),
    ),
    "yolo": ("yolo/data.yaml", _yolo_names),
    "cvat": ("cvat.xml", _cvat),
    "labelstudio": ("labelstudio.json", _label_studio),
}
#: All names, in the order of the help.
WRITES = tuple(dict.fromkeys((*OF_EACH, *OF_ALL)))
#: Those that need the image's pixels.
PICTURES = frozenset({"overlays", "crops"})
#: Those that need masks.
NEED_MASKS = frozenset({"labels", "labels-tiff"})


def write_each(names: Iterable[str], image: Written) -> list[Fault]:
    """Write the files of an image; returns what could not be."""
    faults: list[Fault] = []
    for name in names:
        if name in OF_EACH:
            place, write = OF_EACH[name]
            path = image.out / place.format(image.picture)
            try:
                write(image, path)
            except (OutputError, OSError) as error:
                faults.append((path, error))
    return faults


def folders_of(out: Path) -> list[Path]:
    """The folders that these files lie in."""
    places = {out / place for place, _ in (*OF_EACH.values(), *OF_ALL.values())}
    return [*{place.parent for place in places}, *out.glob("crops/*")]
