"""Masks as image files: one a mask, label images, colours; and the layout of the 2018 Data Science Bowl."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TypeAlias

import numpy as np

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.exchange import EXPORTERS, IMPORTERS, Gathered
from maskrcnn.data.formats.exported import exported_images
from maskrcnn.data.formats.label_images import (
    NO_TABLE,
    TABLE_FILE,
    MaskFile,
    all_binary,
    read_masks,
    read_tables,
)
from maskrcnn.data.formats.sources import (
    IMAGE_SUFFIXES,
    LabelSource,
    files_below,
    split_of,
    without_split,
)
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import DataError, plural
from maskrcnn.files import copy_file, write_bytes, write_text
from maskrcnn.picture_files import encode_labels
from maskrcnn.structures import rle

#: Folders of masks and of images, and ends of the names of mask files (Cellpose and others).
_MASK_FOLDERS = frozenset(
    (
        *("masks", "mask", "labels", "label", "annotations", "instances", "segmentation", "segmentations"),
        *("gt", "groundtruth", "ground_truth", "segmentationobject"),
    )
)
_IMAGE_FOLDERS = frozenset(("images", "image", "img", "imgs", "jpegimages", "raw"))
_MASK_END = re.compile(r"[_\-. ](cp_masks|masks?|labels?|seg|segmentation|instances?|gt)$", re.IGNORECASE)
#: What tells the masks of one image apart.
_COUNTED = (re.compile(r"[_\-. ]+\d+$"), re.compile(r"[_\-. ]+[A-Za-z]+[_\-. ]?\d+$"))
#: Objects of an image that a label image of 16 bits can number.
_MOST_OBJECTS = 65_535

_Key: TypeAlias = tuple[str, ...]


@IMPORTERS.register("masks")
class MaskFilesImporter:
    title = "image files of masks (a folder masks/ beside images/, or names like a_mask.png)"

    def find(self, source: LabelSource) -> str:
        if source.labels.is_file() or Bowl2018Importer().find(source):
            return ""
        _, masks = _sorted_out(source)
        return f"{plural(len(masks), 'image file')} of masks" if masks else ""

    def read(self, source: LabelSource, into: Gathered) -> None:
        alike, masks = _sorted_out(source)
        images = {key: paths[0] for key, paths in alike.items()}
        for path, *others in alike.values():
            for other in others:
                sentence = f"{shown(other)}: {shown(path)} has the same name, so masks would belong to both"
                into.report.record("image of an ambiguous name", sentence)
        of_image: dict[_Key, list[MaskFile]] = defaultdict(list)
        for key, path in masks:
            found = _image_of(key, images, source.class_name)
            if found is None:
                into.report.record(
                    "mask without an image", f"{shown(path)}: there is no image that it belongs to"
                )
            else:
                of_image[found[0]].append(MaskFile(path, found[1], found[2], _classes_of(path)))
        whole = [mask.path for found in of_image.values() for mask in found if not mask.single]
        table = read_tables(source, source.binary == "parts" and all_binary(whole))
        for key, path in images.items():
            with into.faults(shown(path)):
                image = into.image(key[0], path)
                for mask in of_image[key]:
                    read_masks(mask, image, table, into)


@IMPORTERS.register("dsb2018")
class Bowl2018Importer:
    title = "the layout of the 2018 Data Science Bowl (ID/images/*.png, ID/masks/*.png)"

    def find(self, source: LabelSource) -> str:
        count = len(_bowl_folders(source))
        return f"{plural(count, 'folder')} with images/ and masks/" if count else ""

    def read(self, source: LabelSource, into: Gathered) -> None:
        without = {p.parents[1] for p in source.with_suffix(*IMAGE_SUFFIXES) if p.parent.name == "images"}
        into.lost["images without masks/ beside them"] = len(without - set(_bowl_folders(source)))
        name = "nucleus" if source.class_name == LabelSource.class_name else source.class_name
        for folder in _bowl_folders(source):
            with into.faults(shown(folder)):
                pictures = _image_files(folder / "images")
                if len(pictures) != 1:
                    raise FaultError(
                        "no single image", f"its images/ holds {plural(len(pictures), 'image')}, not one"
                    )
                image = into.image(split_of(folder.relative_to(source.folder) / "x"), pictures[0])
                for path in _image_files(folder / "masks"):
                    read_masks(MaskFile(path, name, True), image, NO_TABLE, into)


def _bowl_folders(source: LabelSource) -> list[Path]:
    """Folders below that of the labels with ``images`` and ``masks``; none where one has several images."""
    if source.labels.is_file():
        return []
    files = source.with_suffix(*IMAGE_SUFFIXES)
    candidates = sorted({path.parents[1] for path in files if path.parent.name == "masks"})
    found = [p for p in candidates if p != source.folder and (p / "images").is_dir()]
    several = any(len(_image_files(folder / "images")) > 1 for folder in found)
    splits = any(split_of(PurePath(folder.name) / "x", default="") for folder in found)
    return [] if several or splits else found


def _image_files(folder: Path) -> list[Path]:
    return [p for p in files_below(folder) if p.suffix.lower() in IMAGE_SUFFIXES]


def _sorted_out(source: LabelSource) -> tuple[dict[_Key, list[Path]], list[tuple[_Key, Path]]]:
    """Images and files of masks by split, folders and name, without the words that say which they are."""
    images: dict[_Key, list[Path]] = defaultdict(list)
    masks: list[tuple[_Key, Path]] = []
    apart = source.images is not None and source.images.resolve() != source.labels.resolve()
    if apart and source.images is not None:
        for path in _image_files(source.images):
            images[_key(path, source.images, path.stem)].append(path)
    for path in source.with_suffix(*IMAGE_SUFFIXES):
        if apart and source.images is not None and path.is_relative_to(source.images):
            continue
        folders = {part.lower() for part in path.relative_to(source.folder).parts[:-1]}
        stem = _MASK_END.sub("", path.stem)
        if "segmentationclass" in folders:  # of Pascal VOC: the objects are in another folder
            continue
        if apart or folders & _MASK_FOLDERS or (stem != path.stem and not folders & _IMAGE_FOLDERS):
            masks.append((_key(path, source.folder, stem), path))
        else:
            images[_key(path, source.folder, path.stem)].append(path)
    return images, masks


def _key(path: Path, root: Path, stem: str) -> _Key:
    place = path.relative_to(root)
    folders = without_split(place.parts[:-1])
    plain = (part for part in folders if part.lower() not in _MASK_FOLDERS | _IMAGE_FOLDERS)
    return (split_of(place), *plain, stem)


def _classes_of(path: Path) -> Path | None:
    """Of a file below ``SegmentationObject``, that of the classes, below ``SegmentationClass``."""
    parts = ["SegmentationClass" if part.lower() == "segmentationobject" else part for part in path.parts]
    other = Path(*parts)
    return other if other != path and other.is_file() else None


def _image_of(key: _Key, images: Mapping[_Key, Path], class_name: str) -> tuple[_Key, str, bool] | None:
    """The image that a file of masks belongs to, the class, and whether it is one mask of several.

    The file is called as the image, with a number behind it, or lies in a folder that is called so; and one
    folder more may name the class.
    """
    counted = [((*key[:-1], end.sub("", key[-1])), True) for end in _COUNTED]
    for at in range(len(key) - 1):  # no folder is the class's, or the one at this place
        name = class_name if at == 0 else key[at]
        for candidate, single in ((key, False), (key[:-1], True), *counted):
            found = candidate if at == 0 else candidate[:at] + candidate[at + 1 :]
            if found in images and len(found) > 1:
                return found, name, single
    return None


@EXPORTERS.register("labels")
def export_labels(splits: Mapping[str, Dataset], out: Path) -> Counter[str]:
    """``images/SPLIT/...``, ``labels/SPLIT/....png`` of 16 bits, and ``labels/classes.csv``.

    The pixels of an object have its number in the image; where several lie over one another, the smallest's.
    """
    lost: Counter[str] = Counter()
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(("file", "value", "class", "crowd"))
    for split, dataset in splits.items():
        truth = dataset.ground_truth()
        if truth.encode is None:
            raise DataError(
                f"{truth.source}: has boxes alone, which label images cannot hold; export it as coco"
            )
        for image in exported_images(dataset):
            codes = {row: truth.encode(row) for row in image.rows[:_MOST_OBJECTS]}
            areas = {row: rle.area(code) for row, code in codes.items()}
            lost["objects beyond the 65535 of an image"] += len(image.rows) - len(codes)
            numbers = {row: k for k, row in enumerate(codes, start=1)}
            labels = rle.numbered(list(codes.values()), image.height, image.width)
            left = np.bincount(labels.reshape(-1), minlength=len(codes) + 1)
            name = f"{split}/{image.stem}.png"
            for row in codes:
                lost["ids, stated areas and outlines (masks are kept as pixels)"] += 1
                lost["keypoints"] += len(truth.labelled) > 0 and int(truth.labelled[row]) > 0
                lost["objects that lie partly under others"] += 0 < left[numbers[row]] < areas[row]
                lost["objects that lie wholly under others, left out"] += left[numbers[row]] == 0
                label = truth.category_names[int(truth.labels[row])]
                table.writerow((name, numbers[row], label, int(truth.crowds[row])))
            copy_file(image.path, out / "images" / split / image.name)
            write_bytes(out / "labels" / name, encode_labels(labels))
    write_text(out / "labels" / TABLE_FILE, lines.getvalue())
    return lost
