"""Formats that data sets are imported from and exported to: their registries, and what importers hand over.

An importer reads its files and hands each image and each object to :class:`Gathered` in COCO's terms; what
is checked, named, counted and left out there is what the reader of COCO files would leave out.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from maskrcnn.config.registry import Named
from maskrcnn.data.fault_report import FaultError, FaultReport
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.checks import check_box, check_mask, is_no_mask
from maskrcnn.data.formats.sources import LabelSource, common_folder, image_size
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import DataError
from maskrcnn.structures import rle


class Importer(Protocol):
    """Reads one format.  What is registered is the class, made without arguments."""

    #: The files that it reads, for messages: ``json files of labelme's``.
    title: str

    def find(self, source: LabelSource) -> str:
        """What of it is there, for messages (``12 json files of labelme's``); empty where nothing is."""
        ...

    def read(self, source: LabelSource, into: Gathered) -> None:
        """Hand over all images and objects.

        Raises:
            DataError: the files as a whole cannot be used.
        """
        ...


class Exporter(Protocol):
    """Writes one format: a function, which is registered itself."""

    def __call__(self, splits: Mapping[str, Dataset], out: Path) -> Counter[str]:
        """Write the data sets by their splits, image files copied, into ``out``, a folder that is empty.

        Returns:
            what the format cannot hold, by kind, with the number of objects.
        """
        ...


_ROOM = "maskrcnn.data.formats"
IMPORTERS: Named[Callable[[], Importer]] = Named(
    "format",
    _ROOM,
    coco="coco_dialects",
    cvat="cvat",
    dsb2018="mask_files",
    labelme="labelme",
    masks="mask_files",
    yolo="yolo",
)
EXPORTERS: Named[Exporter] = Named(
    "format", _ROOM, coco="coco_dialects", labelme="labelme", labels="mask_files", yolo="yolo"
)


@dataclass(eq=False)
class ImageEntry:
    """An image that was handed over: its split, its file, its size in pixels, further keys of its record."""

    split: str
    path: Path
    height: int
    width: int
    record: dict[str, Any]


@dataclass
class Split:
    """Images and objects of one split."""

    images: list[ImageEntry] = field(default_factory=list)
    annotations: list[tuple[ImageEntry, int | str, str, dict[str, Any]]] = field(default_factory=list)
    """The image of each, its class, what a message calls it, and its record."""


class Gathered:
    """What an importer found.

    report: what was left out, and what was read as meant.
    lost: what one of the two formats cannot hold, by kind, with the number of objects.
    splits: by name: ``train``, ``val``, ``test``.
    categories: names of the classes by id, where the format numbers them; else they are numbered by name.
    category_records: further keys of a class, by id.
    """

    def __init__(self, source: LabelSource) -> None:
        self.source = source
        self.report = FaultReport(shown(source.labels), None)
        self.lost: Counter[str] = Counter()
        self.splits: dict[str, Split] = defaultdict(Split)
        self.categories: dict[int, str] = {}
        self.category_records: dict[int, dict[str, Any]] = {}

    def image(self, split: str, path: Path, says: tuple[int, int] | None = None, **record: Any) -> ImageEntry:
        """Take an image.

        says: (height, width) in pixels that the labels are for, where the format says so.
        record: further keys of its record.

        Raises:
            FaultError: it cannot be read.
        """
        try:
            height, width = image_size(path) if says is None else says
        except DataError as error:
            raise FaultError("unreadable image", str(error)) from None
        entry = ImageEntry(split, path, height, width, record)
        self.splits[split].images.append(entry)
        return entry

    def add(self, image: ImageEntry, category: int | str, where: str, record: Mapping[str, Any]) -> None:
        """Take an object, or report why it is left out.

        category: an id of :attr:`categories`, or a name.
        where: what a message calls it.
        record: ``segmentation`` (polygons, or an RLE), ``bbox`` and further keys, as in a COCO json.
        """
        mended: list[str] = []
        kept = dict(record)
        try:
            if isinstance(category, int) and category not in self.categories:
                raise FaultError("unknown category", f"there is no class {category}")
            mask = None
            if is_no_mask(kept.pop("segmentation", None)):
                kept.pop("area", None)
            else:
                mask = check_mask(record, image.height, image.width, mended)
                code = mask.encode(image.height, image.width)
                flat = [part.tolist() for part in mask.polygons]
                kept["segmentation"] = flat or rle.as_text(code)
                kept["bbox"] = kept.get("bbox") or (_around(flat, image) if flat else rle.box(code))
                kept.setdefault("area", rle.area(code))
            box = check_box(kept, image.height, image.width, mask, mended)
        except FaultError as fault:
            self.report.annotation(fault.kind, f"{where}: {fault}")
            return
        for what in mended:
            self.report.mend(what, where)
        kept |= {"bbox": list(box), "iscrowd": int(bool(kept.get("iscrowd")))}
        self.splits[image.split].annotations.append((image, category, where, kept))

    @contextlib.contextmanager
    def faults(self, where: str) -> Iterator[None]:
        """A fault in the body is that of an image: named, counted, and the image is left out."""
        try:
            yield
        except FaultError as fault:
            self.report.record(fault.kind, f"{where}: {fault}")

    @property
    def masks(self) -> bool:
        """Whether any object has a mask."""
        return any("segmentation" in a[3] for split in self.splits.values() for a in split.annotations)

    def contents(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """By split, the folder of its images and what its COCO json holds, with file names relative to it.

        Where some objects have masks, those of a box alone are left out, or their boxes are taken as masks.

        Raises:
            DataError: there are no images, or no objects.
        """
        found = {name: split for name, split in self.splits.items() if split.images}
        if not any(split.annotations for split in found.values()):
            what = "no objects" if found else "no images"
            raise DataError(f"{self.report.where}: there are {what} in it\n{self.report.summary()}".strip())
        if len(found) == 1:
            found = {"train": next(iter(found.values()))}
        masks = self.masks
        for split in found.values():
            split.annotations = [a for a in split.annotations if not masks or self._with_mask(*a)]
        names = {c for split in found.values() for _, c, _, _ in split.annotations if isinstance(c, str)}
        ids = {name: i for i, name in self.categories.items()}
        ids |= {
            name: i for i, name in enumerate(sorted(names - ids.keys()), start=max([0, *ids.values()]) + 1)
        }
        categories = [
            {"id": i, "name": name, **self.category_records.get(i, {})}
            for name, i in sorted(ids.items(), key=lambda item: item[1])
        ]
        return {name: self._content(split, categories, ids) for name, split in sorted(found.items())}

    def _with_mask(self, image: ImageEntry, _: int | str, where: str, record: dict[str, Any]) -> bool:
        if "segmentation" in record:
            return True
        if not (self.source.boxes_as_masks or record.get("fills")):
            advice = "others have masks; take such boxes for masks with --boxes-as-masks"
            self.report.annotation("box without a mask", f"{where}: it is a box without a mask, and {advice}")
            return False
        x, y, w, h = record["bbox"]
        record["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        record["area"] = w * h
        self.report.mend("box taken for the mask of all its pixels", where)
        return True

    def _content(
        self, split: Split, categories: list[dict[str, Any]], ids: Mapping[str, int]
    ) -> tuple[Path, dict[str, Any]]:
        root = common_folder([image.path for image in split.images], self.source.images)
        numbers = _numbers([image.record.pop("id", None) for image in split.images])
        number_of = dict(zip(map(id, split.images), numbers, strict=True))
        images = [
            {
                "id": number_of[id(image)],
                "file_name": Path(os.path.abspath(image.path)).relative_to(root).as_posix(),  # noqa: PTH100
                "height": image.height,
                "width": image.width,
                **image.record,
            }
            for image in split.images
        ]
        new = _numbers([record.pop("id", None) for _, _, _, record in split.annotations])
        annotations = [
            {
                "id": number,
                "image_id": number_of[id(image)],
                "category_id": category if isinstance(category, int) else ids[category],
                **{key: value for key, value in record.items() if key != "fills"},
            }
            for number, (image, category, _, record) in zip(new, split.annotations, strict=True)
        ]
        return root, {"images": images, "annotations": annotations, "categories": categories}


def _around(polygons: list[list[float]], image: ImageEntry) -> list[float]:
    """x, y, width, height of polygons, as far as they lie in the image."""
    xs = [min(max(x, 0.0), float(image.width)) for part in polygons for x in part[::2]]
    ys = [min(max(y, 0.0), float(image.height)) for part in polygons for y in part[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _numbers(wanted: list[int | None]) -> list[int]:
    """The ids that were wanted, each where it is there and the first of its kind; elsewhere fresh ones."""
    taken = {i for i in wanted if i is not None}
    fresh = itertools.count(max([0, *taken]) + 1)
    free = set(taken)
    numbers = []
    for i in wanted:
        numbers.append(i if i is not None and i in free else next(fresh))
        free.discard(numbers[-1])
    return numbers
