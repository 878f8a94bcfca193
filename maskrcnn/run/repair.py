"""``maskrcnn doctor --fix``: a copy of the annotations in which all is mended whose repair is plain.

Two passes: image records first (sizes, files that cannot be read or are listed twice), then, read again by
the reader's rules, the annotations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.annotation_reader import read_annotations
from maskrcnn.data.doctor import Doubt, find_doubts
from maskrcnn.data.doctor.annotation_doubts import NO_AREA, same_objects
from maskrcnn.data.doctor.file_doubts import normal_names
from maskrcnn.data.doctor.look import Look, installed, stored_size
from maskrcnn.data.doctor.mask_doubts import box_doubt, empty_doubt, polygons
from maskrcnn.data.doctor.overlap_doubts import filled, overlap_doubt
from maskrcnn.data.fault_report import FaultReport
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.coco import CocoConfig, CocoDataset
from maskrcnn.data.formats.coco_json import as_id, load_coco
from maskrcnn.data.formats.data_folder import DATA_FILE, write_data_folder
from maskrcnn.data.image_files import image_path, missing_files, open_image
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.errors import UserError, plural
from maskrcnn.files import write_bytes, write_json
from maskrcnn.recipe import DataConfig
from maskrcnn.run.data_argument import read_data_argument
from maskrcnn.run.examine import READER, Examination, read_sets
from maskrcnn.structures import rle
from maskrcnn.structures.masks import polygon_area

#: The list of what was done.
REPAIRS = "repairs.json"


@dataclass
class _Repairs:
    """What was done to one file: a sentence each, with the ids of what it was done to."""

    where: str
    done: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, what: str, of: str, ids: list[int], count: int | None = None) -> None:
        """``count``: where not all have an id."""
        count = len(ids) if count is None else count
        if count:
            self.done.append({"where": self.where, "what": what, "of": of, "count": count, "ids": ids})


def repair(
    config: DataConfig, found: Examination, look: Look | None, folder: Path, *, copy: bool = False
) -> list[str]:
    """Write ``folder``/{train,val}.json, data.yaml and repairs.json.

    Args:
        found: what :func:`maskrcnn.run.examine.examine` said of ``config``.
        look: that it was given; without one nothing is known of the images' content.
        copy: copy the images that are left, too; else data.yaml names where they are.

    Returns:
        lines about it.

    Raises:
        UserError: the folder holds such a copy, or a data set is none of COCO's json.
        OutputError: it cannot be written.
    """
    sets = _coco_sets(found)
    taken = [name for name in (DATA_FILE, REPAIRS, *(f"{n}.json" for n in sets)) if (folder / name).exists()]
    if taken:
        raise UserError(
            f"{shown(folder)}: holds {taken[0]} already; name another folder with --fix, or remove it"
        )
    done: list[dict[str, Any]] = []
    contents: dict[str, dict[str, Any]] = {}
    grouping = _root_classes(list(sets.values()))
    for name, dataset in sets.items():
        log = _Repairs(str(dataset.annotation_file))
        leaked = _leaked(found.doubts) if name == "train" else set()
        content = _repaired(dataset, look, leaked, grouping, log)
        if len(dataset.index.images) + dataset.report.annotations.total() and not content["annotations"]:
            raise UserError(
                f"{log.where}: nothing would be left of its annotations, so no copy is written; do as the"
                " findings say"
            )
        contents[name] = content
        done += log.done
    places = {name: dataset.images.absolute() for name, dataset in sets.items()}
    if copy:
        places = {name: Path("images", name) for name in sets}
        for name, dataset in sets.items():
            _copy_images(dataset, contents[name]["images"], folder / places[name])
    write_data_folder(
        folder,
        {name: (places[name], content) for name, content in contents.items()},
        of_split={"train": _options(config.train), "val": _options(config.val)},
        note=f"A repaired copy: {REPAIRS} lists what was done.",
    )
    left = _left(found, {kind for entry in done for kind in _KINDS.get(entry["what"], ())}, folder)
    write_json(folder / REPAIRS, {"done": done, "left": [d.as_json() for d in left]}, indent=1)
    told = [f"{entry['where']}: {entry['count']} {entry['of']}: {entry['what']}" for entry in done]
    told += dict.fromkeys(f"left as it is ({doubt.kind}): {doubt.advice}" for doubt in left)
    return [
        *told,
        f"{folder / DATA_FILE}: {plural(len(done), 'repair')}, listed with all ids in {folder / REPAIRS}",
    ]


def _coco_sets(found: Examination) -> dict[str, CocoDataset]:
    """By name, train and val.

    Raises:
        UserError: one is none of COCO's json.
    """
    sets: dict[str, CocoDataset] = {}
    for key, dataset in found.data.items():
        if not isinstance(dataset, CocoDataset) or not dataset.annotation_file.is_file():
            raise UserError(
                f"{key}: {type(dataset).__name__} is not read from a COCO json, which --fix writes; export it"
                " to COCO first (maskrcnn export-data)"
            )
        sets[key.removeprefix("data.")] = dataset
    return sets


def _left(found: Examination, repaired: set[str], folder: Path) -> list[Doubt]:
    """What the copy is still doubted for, and what of ``found`` takes opening images, or a recipe."""
    before = {d.kind for d in find_doubts(found.data["data.train"], found.data.get("data.val"))}
    again, _ = read_sets(read_data_argument(folder))
    fresh = list(find_doubts(again["data.train"], again.get("data.val")))
    others = [d for d in found.doubts if d.kind not in before | repaired and not d.kind.startswith(READER)]
    return [*fresh, *others]


_UNREADABLE = "images that cannot be read are left out, with their annotations"
_EXCHANGED = "width and height were exchanged: taken from the file"
_MERGED = "a file under several ids: all annotations have the first"
_LEAKED = "training images that are validation images, too, are left out"
_FAULTY = "faulty records are left out"
_MEANT = "written as they are meant"
_TWICE = "repetitions are left out"
_EMPTY = "masks of nothing are left out"
_FLAT = "polygons without area are left out"
_FILLED = "what a polygon covered twice is filled"
_BOXES = "the box is taken from the mask"
_AREAS = "the area is taken from mask or box"
_ROOT = "classes that only group the others are left out"
#: The kinds of findings that a repair ends.
_KINDS = {
    _UNREADABLE: ("unreadable image", "missing image", "size differs"),
    _EXCHANGED: ("size differs",),
    _MERGED: ("file under several ids",),
    _LEAKED: ("val repeats train",),
    _TWICE: ("annotation twice",),
    _EMPTY: ("mask of nothing",),
    _FLAT: ("polygon without area",),
    _FILLED: ("polygon over itself",),
    _BOXES: ("box disagrees with mask",),
    _AREAS: ("area that cannot be",),
    _ROOT: ("root class",),
}


def _repaired(
    dataset: CocoDataset, look: Look | None, leaked: set[int], grouping: set[int], log: _Repairs
) -> dict[str, Any]:
    """The content of the repaired json."""
    content = dict(load_coco(dataset.annotation_file, str(dataset.annotation_file)))
    content["annotations"] = content["annotations"][:]  # decoded, whether it was or not
    _repair_images(content, dataset, look, leaked, log)
    report = FaultReport(log.where, None)
    index = read_annotations(
        content, report, masks=dataset.index.masks, keypoints=dataset.keypoints is not None
    )
    for counter, of in ((report.records, "images"), (report.annotations, "annotations")):
        for kind, count in counter.items():
            log.tell(f"{_FAULTY} ({kind})", of, report.ids[kind], count)
    for how, count in report.mended.items():
        log.tell(f"{_MEANT} ({how})", "annotations", report.ids[how], count)
    images = {as_id(record["id"]): record for record in content["images"] if _sound(record, index)}
    categories = [r for r in content["categories"] if as_id(r["id"]) not in grouping]
    dropped = sorted(as_id(r["id"]) or 0 for r in content["categories"] if as_id(r["id"]) in grouping)
    log.tell(_ROOT, "classes", dropped)
    content["images"] = [{**r, "id": i} for i, r in images.items()]
    content["categories"] = [{**r, "id": as_id(r["id"])} for r in categories]
    content["annotations"] = list(_annotations(content["annotations"], index, log))
    return content


def _sound(record: Any, index: AnnotationIndex) -> bool:
    image_id = as_id(record.get("id")) if isinstance(record, Mapping) else None
    return image_id is not None and bool(np.isin(image_id, index.image_ids))


def _repair_images(
    content: dict[str, Any], dataset: CocoDataset, look: Look | None, leaked: set[int], log: _Repairs
) -> None:
    """Change records of images, and of which image annotations are, in ``content``."""
    gone: set[int] = set()
    sizes: dict[int | None, tuple[int, int]] = {}
    for i, fact in enumerate(look.facts(dataset)) if look is not None else ():
        if not fact.fault:
            continue
        image_id, says = int(dataset.image_ids[i]), tuple(dataset.sizes[i].tolist())
        size = stored_size(dataset.path(i), dataset.exif)
        if fact.other_size and size is not None and size == says[::-1]:
            sizes[image_id] = size
        else:
            gone.add(image_id)
    if look is None:
        paths = [dataset.path(i) for i in range(len(dataset))]
        gone |= {int(dataset.image_ids[i]) for i in missing_files(paths)}
    same: dict[int | None, int] = {}
    first: dict[str, int] = {}
    for place, name in enumerate(normal_names(dataset.index)):
        image_id = int(dataset.index.image_ids[place])
        if first.setdefault(name, image_id) != image_id:
            same[image_id] = first[name]
    if leaked and len(set(dataset.image_ids.tolist()) - leaked - gone):
        log.tell(_LEAKED, "images", sorted(leaked))
    else:
        leaked = set()
    log.tell(_UNREADABLE, "images", sorted(gone))
    log.tell(_EXCHANGED, "images", sorted(i for i in sizes if i is not None))
    log.tell(_MERGED, "images", sorted(i for i in same if i is not None))
    out = gone | leaked

    def image_of(record: Any, key: str) -> int | None:
        return as_id(record.get(key)) if isinstance(record, Mapping) else None

    images, annotations = [], []
    for record in content["images"]:
        known = image_of(record, "id")
        if known in sizes:
            record = {**record, "height": sizes[known][0], "width": sizes[known][1]}
        if known not in out and known not in same:
            images.append(record)
    for record in content["annotations"]:
        known = image_of(record, "image_id")
        if known in same:
            record = {**record, "image_id": same[known]}
        if known not in out:
            annotations.append(record)
    content["images"], content["annotations"] = images, annotations


def _annotations(records: list[Any], index: AnnotationIndex, log: _Repairs) -> Iterator[dict[str, Any]]:
    """The annotations of the index, mended, with all else that their records say."""
    parts = polygons(index)
    ids = index.annotation_ids
    out = {b for a, b in same_objects(index) if index.labels[a] == index.labels[b]}
    log.tell(_TWICE, "annotations", sorted(ids[list(out)].tolist()))
    place = {annotation: row for row, annotation in enumerate(ids.tolist())}

    def rows_of(doubt: Doubt | None) -> set[int]:
        return set() if doubt is None else {place[i] for i in doubt.every} - out

    empty = rows_of(empty_doubt(index, parts)) if index.masks else set()
    log.tell(_EMPTY, "annotations", sorted(ids[list(empty)].tolist()))
    out |= empty
    boxes = rows_of(box_doubt(index, parts)) if index.masks else set()
    over = rows_of(overlap_doubt(index, parts)) if index.masks and installed("shapely") else set()
    truth = index.ground_truth()
    flat, areas = [], []
    for row, number in enumerate(index.numbers.tolist()):
        if row in out:
            continue
        height, width = index.sizes[index.images[row]].tolist()
        record = dict(records[number])
        box = index.boxes[row].tolist()
        if truth.encode is not None and truth.outline is not None:
            outline = truth.outline(row)
            if outline is not None:
                drawn = [p for p in outline if polygon_area(np.asarray(p).reshape(-1, 2)) > NO_AREA]
                if len(drawn) < len(outline):
                    flat.append(row)
                outline = drawn or outline
            code = truth.encode(row)
            if row in over and outline is not None:
                outline, code = _fill(outline, height, width)
            record["segmentation"] = rle.as_text(dict(code)) if outline is None else outline
            if row in boxes:
                box = list(rle.box(code))
        limit = box[2] * box[3] if truth.encode is None else float(rle.area(truth.encode(row)))
        stated = float(index.areas[row])
        if not 0 < stated <= max(1.05 * box[2] * box[3] + 1, limit):
            areas.append(row)
            stated = limit
        yield record | {
            "id": int(ids[row]),
            "image_id": int(index.image_ids[index.images[row]]),
            "category_id": index.categories.ids[int(index.labels[row])],
            "bbox": box,
            "area": stated,
            "iscrowd": int(index.crowds[row]),
        }
    log.tell(_FLAT, "annotations", ids[flat].tolist())
    log.tell(_FILLED, "annotations", sorted(ids[list(over)].tolist()))
    log.tell(_BOXES, "annotations", sorted(ids[list(boxes)].tolist()))
    log.tell(_AREAS, "annotations", ids[areas].tolist())


def _fill(outline: list[list[float]], height: int, width: int) -> tuple[list[list[float]] | None, rle.RLE]:
    """Polygons that cover what the given ones wind round; None in their place where that has holes."""
    pieces = [piece for part in outline for piece in filled(np.asarray(part).reshape(-1, 2))]
    whole = rle.from_polygons([outer.ravel() for outer, *_ in pieces], height, width)
    if all(len(piece) == 1 for piece in pieces):
        return [outer.ravel().tolist() for (outer,) in pieces], whole
    bitmap = rle.decode(whole)
    for _, *holes in pieces:
        if holes:
            bitmap &= 1 - rle.decode(rle.from_polygons([hole.ravel() for hole in holes], height, width))
    return None, rle.encode(bitmap)


def _leaked(doubts: list[Doubt]) -> set[int]:
    """Ids of training images that are validation images as well, to the byte."""
    return {i for doubt in doubts if doubt.kind == "val repeats train" for i in doubt.others}


def _root_classes(sets: list[CocoDataset]) -> set[int]:
    """Ids of classes that only group the others in every data set: they must stay equal."""
    roots = [d.index.root_class for d in sets]
    ids = [set() if r is None else {d.categories.ids[r]} for d, r in zip(sets, roots, strict=True)]
    return set.intersection(*ids)


def _copy_images(dataset: CocoDataset, records: list[Any], folder: Path) -> None:
    """
    Raises:
        UserError: an image's name leads out of the folder, or it cannot be read.
    """
    for record in records:
        name = Path(record["file_name"].replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise UserError(
                f"image {record['id']}: its name {shown(name)} leads out of the folder of images, so it"
                " cannot be copied; leave --copy out"
            )
        path = image_path(dataset.images, record["file_name"])
        try:
            with open_image(path) as file:
                data = file.read()
        except OSError as error:
            raise UserError(f"{shown(path)}: cannot be copied: {error.strerror or error}") from None
        write_bytes(folder / name, data)


def _options(part: Any) -> dict[str, Any]:
    """What the config of a data set says besides where it is."""
    found: dict[str, Any] = {}
    for item in fields(part) if isinstance(part, CocoConfig) else ():
        value = getattr(part, item.name)
        if item.default is not MISSING and value != item.default:
            found[item.name] = str(value) if isinstance(value, Path) else value
    return found
