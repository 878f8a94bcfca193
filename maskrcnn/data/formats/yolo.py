"""YOLO: a text file an image, a line an object, in parts of the image's sides; polygons or boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskrcnn.config.text import format_plain
from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.file_names import leaves_folder, shown
from maskrcnn.data.formats.exchange import EXPORTERS, IMPORTERS, Gathered, ImageEntry
from maskrcnn.data.formats.exported import exported_images
from maskrcnn.data.formats.sources import IMAGE_SUFFIXES, LabelSource, files_below, split_of
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import DataError
from maskrcnn.files import copy_file, write_text
from maskrcnn.structures import rle
from maskrcnn.structures.outlines import outline

#: Files that hold the names of the classes, a line each, where there is no data.yaml.
_NAMES = ("classes.txt", "obj.names", "_darknet.labels")
#: Keys of data.yaml and the splits that they are.
_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


@IMPORTERS.register("yolo")
class YoloImporter:
    title = "YOLO's label files (data.yaml with 'names', or classes.txt; labels/*.txt)"

    def find(self, source: LabelSource) -> str:
        found = _description(source)
        return "" if found is None else f"YOLO's {found.name}"

    def read(self, source: LabelSource, into: Gathered) -> None:
        description = _description(source)
        if description is None:
            raise DataError(
                f"{shown(source.labels)}: no data.yaml and no classes.txt say which classes these are"
            )
        if description.suffix == ".txt" or description.name in _NAMES:
            text = description.read_text(encoding="utf-8-sig", errors="replace")
            content: dict[str, Any] = {"names": [line.strip() for line in text.splitlines() if line.strip()]}
        else:
            content = _yaml(description) or {}
        into.categories = _names(content, description)
        if content.get("kpt_shape"):
            into.lost["keypoints"] += 1
        read: list[list[Path]] = []
        for split, images in _splits(content, description, source):
            if images in read:  # who has no val names train twice, since ultralytics asks for one
                into.lost[f"images of {split!r}, which are those of another split"] += len(images)
                continue
            read.append(images)
            for path in images:
                label = _label_file(path, source)
                with into.faults(shown(path)):
                    image = into.image(split, path)
                    if label is not None:
                        _read_labels(label, image, bool(content.get("kpt_shape")), into)


def _description(source: LabelSource) -> Path | None:
    """The file that names the classes: a YAML with ``names``, or a list; None where there is none."""
    for path in source.with_suffix(".yaml", ".yml"):
        content = _yaml(path)
        if isinstance(content, dict) and "names" in content and "data" not in content:
            return path
    named = [path for path in source.files if path.name in _NAMES]
    return named[0] if named and any(p.suffix == ".txt" and p not in named for p in source.files) else None


def _yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > 1 << 20:  # no such file is large
            return None
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None


def _names(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """The classes by number.

    Raises:
        DataError: they are no list of names, nor names by number.
    """
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    sound = isinstance(names, dict) and all(
        type(k) is int and isinstance(v, str | int) for k, v in names.items()
    )
    if not sound or not names:
        raise DataError(f"{shown(path)}: its 'names' must be a list of names, or names by number")
    return {k: str(v) for k, v in names.items()}


def _splits(content: Mapping[str, Any], path: Path, source: LabelSource) -> Iterator[tuple[str, list[Path]]]:
    """The image files of each split that the description names; of one that names none, all there are.

    Raises:
        DataError: a folder or list of images is not there, or lies outside and that is not allowed.
    """
    named = False
    for key, split in _KEYS.items():
        places = content.get(key) or []
        places = [places] if isinstance(places, str) else places
        if not isinstance(places, list) or not all(isinstance(p, str) for p in places):
            raise DataError(f"{shown(path)}: its {key!r} must be a folder, or a list of folders")
        found = [image for place in places for image in _images_of(place, content, path, source, key)]
        named = named or bool(found)
        if found:
            yield split, found
    if not named:
        folder = source.images or path.parent
        images: dict[str, list[Path]] = {}
        for image in files_below(folder):
            if image.suffix.lower() in IMAGE_SUFFIXES:
                images.setdefault(split_of(image.relative_to(folder)), []).append(image)
        yield from images.items()


def _images_of(
    place: str, content: Mapping[str, Any], path: Path, source: LabelSource, key: str
) -> list[Path]:
    root = content.get("path")
    below = f"{root}/{place}" if isinstance(root, str) and root not in ("", ".") else place
    # What is written; what is below the file whatever 'path' says; and Roboflow's, a '../' too many.
    tried = [name.replace("\\", "/") for name in (below, place)]
    tried.append(tried[1].removeprefix("../"))
    for name in tried:
        inside = not leaves_folder(name) or source.allow_outside
        if inside and (path.parent / name).exists():
            return _listed(path.parent / name, path, source)
    if any((path.parent / name).exists() for name in tried):
        raise DataError(
            f"{shown(path)}: its {key!r} is {shown(place)[:200]}, out of the folder {shown(path.parent)};"
            " if you trust the file, follow it with --allow-outside"
        )
    if key == "test":  # often named and left out
        return []
    raise DataError(
        f"{shown(path)}: its {key!r} is {shown(place)[:200]}, which is not there; correct or remove it"
    )


def _listed(place: Path, path: Path, source: LabelSource) -> list[Path]:
    """The images of a folder, or those that a text file lists."""
    if place.is_dir():
        return [p for p in files_below(place) if p.suffix.lower() in IMAGE_SUFFIXES]
    lines = place.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if not source.allow_outside and (outside := [n for n in names if leaves_folder(n)]):
        raise DataError(
            f"{shown(place)}: {shown(outside[0])[:200]} lies out of the folder {shown(path.parent)}; if you"
            " trust the file, follow it with --allow-outside"
        )
    beside = (place.parent / name.removeprefix("./") for name in names)
    return [p if p.exists() else path.parent / name for p, name in zip(beside, names, strict=True)]


def _label_file(image: Path, source: LabelSource) -> Path | None:
    """The text file of an image: ``labels`` in place of the last ``images``, or beside it."""
    parts = list(image.parts)
    name = f"{image.stem}.txt"
    places = [i for i, part in enumerate(parts) if part == "images"]
    swapped = [Path(*parts[: places[-1]], "labels", *parts[places[-1] + 1 : -1], name)] if places else []
    others = [image.with_name(name), source.folder / name, source.folder / "labels" / name]
    return next((p for p in [*swapped, *others] if p.is_file() and p.name not in _NAMES), None)


def _read_labels(path: Path, image: ImageEntry, posed: bool, into: Gathered) -> None:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError):
        raise FaultError("broken label file", f"{shown(path)} is no text that can be read") from None
    for number, line in enumerate(lines, start=1):
        where = f"{shown(path)}:{number}"
        words = line.split()
        if not words:
            continue
        try:
            category, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            into.report.annotation("broken line", f"{where}: it is not a class and numbers: {line[:60]!r}")
            continue
        if posed:
            values = values[:4]
        into.add(image, category, where, _record(values, image))


def _record(values: list[float], image: ImageEntry) -> dict[str, Any]:
    """Four numbers, or five with a score, are a box about its middle; more are a polygon."""
    sides = (image.width, image.height)
    if len(values) in (4, 5):
        x, y, w, h = (value * sides[k % 2] for k, value in enumerate(values[:4]))
        return {"bbox": [x - w / 2, y - h / 2, w, h]}
    return {"segmentation": [[value * sides[k % 2] for k, value in enumerate(values)]]}


@EXPORTERS.register("yolo")
def export_yolo(splits: Mapping[str, Dataset], out: Path) -> Counter[str]:
    """``data.yaml``, ``images/SPLIT/...`` and ``labels/SPLIT/....txt``; each object is one polygon.

    A mask of one polygon is that polygon, as long as the numbers of the line mean the same pixels; any other
    becomes an outline along its pixels, whose parts and holes are joined by seams.
    """
    lost: Counter[str] = Counter()
    names: tuple[str, ...] = ()
    for split, dataset in splits.items():
        truth = dataset.ground_truth()
        names = truth.category_names
        for image in exported_images(dataset):
            lines = []
            sides = np.array([image.width, image.height], dtype=np.float64)
            for row in image.rows:
                lost["ids and stated areas"] += 1
                lost["keypoints"] += len(truth.labelled) > 0 and int(truth.labelled[row]) > 0
                if truth.crowds[row]:
                    lost["crowd regions, left out"] += 1
                    continue
                if truth.encode is None:
                    x, y, w, h = truth.boxes[row].tolist()
                    numbers = np.array([x + w / 2, y + h / 2, w, h]).reshape(-1, 2) / sides
                else:
                    parts = None if truth.outline is None else truth.outline(row)
                    code = truth.encode(row)
                    numbers = np.array(parts[0] if parts is not None and len(parts) == 1 else outline(code))
                    numbers = numbers.reshape(-1, 2) / sides
                    if not _means(numbers, sides, code):
                        numbers = np.array(outline(code)).reshape(-1, 2) / sides
                        lost["polygons drawn along their pixels, since parts of the sides round them"] += 1
                    elif parts is None or len(parts) > 1:
                        lost["masks drawn along their pixels, parts and holes joined by seams"] += 1
                lines.append(_line(int(truth.labels[row]), numbers))
            copy_file(image.path, out / "images" / split / image.name)
            write_text(out / "labels" / split / f"{image.stem}.txt", "".join(lines))
    keys = [f"{split}: images/{split}\n" for split in splits]
    keys += ["" if "val" in splits else "val: images/train\n"]
    write_text(out / "data.yaml", "path: .\n" + "".join(keys) + yolo_names(names))
    return lost


def yolo_names(names: Sequence[str]) -> str:
    """The part of ``data.yaml`` that names the classes."""
    return "names:\n" + "".join(f"  {k}: {format_plain(name)}\n" for k, name in enumerate(names))


def yolo_line(
    label: int, box: Sequence[float], code: rle.RLE | rle.TextRLE | None, size: tuple[int, int]
) -> str:
    """An object as the outline of its pixels, or where it has none as its box (x, y, width, height).

    size: (height, width) of the image.
    """
    sides = np.array([size[1], size[0]], dtype=np.float64)
    if code is not None and rle.area(code):
        return _line(label, np.array(outline(code)).reshape(-1, 2) / sides)
    x, y, w, h = box
    return _line(label, np.array([x + w / 2, y + h / 2, w, h]).reshape(-1, 2) / sides)


def _line(label: int, numbers: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    return f"{label} {' '.join(f'{value:.9g}' for value in numbers.reshape(-1).tolist())}\n"


def _means(
    numbers: np.ndarray[Any, np.dtype[np.float64]], sides: np.ndarray[Any, Any], code: rle.RLE
) -> bool:
    """Whether the numbers, rounded as they are written, are drawn as the mask."""
    if len(numbers) < 3:
        return False
    read = np.array([float(f"{value:.9g}") for value in numbers.reshape(-1).tolist()]).reshape(-1, 2) * sides
    again = rle.from_polygons([read.reshape(-1)], *code["size"])
    return bool(again["counts"] == code["counts"])
