"""COCO jsons as the tools write them: CVAT, Label Studio, Roboflow, labelme2coco; and our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.checks import check_ids
from maskrcnn.data.formats.coco_json import (
    as_id,
    brief,
    kind_of,
    load_coco,
    read_categories,
    read_json,
    root_class,
)
from maskrcnn.data.formats.data_folder import write_data_folder
from maskrcnn.data.formats.exchange import EXPORTERS, IMPORTERS, Gathered, ImageEntry
from maskrcnn.data.formats.exported import exported_images
from maskrcnn.data.formats.sources import LabelSource, split_of
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import DataError, few, plural
from maskrcnn.files import copy_file
from maskrcnn.structures import rle
from maskrcnn.structures.ground_truth import GroundTruth

#: Classes that stand in such files for what is none (labelme's examples).
_NO_CLASS = ("__ignore__", "_background_")
_LISTS = ("images", "annotations", "categories")


@IMPORTERS.register("coco")
class CocoImporter:
    title = "COCO jsons (of CVAT, Label Studio, Roboflow, labelme2coco ...)"

    def find(self, source: LabelSource) -> str:
        found = _files(source)
        return f"{plural(len(found), 'COCO json')} ({few(p.name for p in found)})" if found else ""

    def read(self, source: LabelSource, into: Gathered) -> None:
        files: dict[str, list[Path]] = {}
        for path in _files(source):
            files.setdefault(split_of(path.relative_to(source.folder), file_too=True), []).append(path)
        classes: list[Any] | None = None
        for split, paths in files.items():
            named = [p for p in paths if "instances" in p.name] if len(paths) > 1 else paths
            if len(named) != 1:
                raise DataError(
                    f"{shown(source.labels)}: {plural(len(paths), 'json')} could be those of {split}"
                    f" ({few(shown(p.relative_to(source.folder)) for p in paths)}); name one"
                    " of them in place of the folder"
                )
            content = load_coco(read_json(named[0]), shown(named[0]))
            if classes is None:
                classes = content["categories"]
                _take_classes(content, into)
            elif read_categories(classes, "") != read_categories(content["categories"], shown(named[0])):
                raise DataError(
                    f"{shown(named[0])}: its categories are not those of the other jsons; give all the"
                    " same ids and names, or import each by itself"
                )
            _read_one(named[0], content, split, source, into)


def _files(source: LabelSource) -> list[Path]:
    return [path for path in source.with_suffix(".json") if looks_like_coco(path)]


def looks_like_coco(path: Path) -> bool:
    """Whether a file holds the names of COCO's three lists as keys, its huge values not parsed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return False
    return all(f'"{key}"' in text for key in _LISTS)


def _take_classes(content: Mapping[str, Any], into: Gathered) -> None:
    """The classes but those that stand for none and that no annotation has."""
    categories = read_categories(content["categories"], into.report.where)
    used = {as_id(a.get("category_id")) for a in content["annotations"] if isinstance(a, Mapping)}
    places = [k for k, i in enumerate(categories.ids) if i in used]
    group = root_class(content["categories"], categories, places)
    for k, (category_id, name) in enumerate(zip(categories.ids, categories.names, strict=True)):
        if k == group or (name in _NO_CLASS and category_id not in used):
            into.report.mend(
                "class that only groups others, or stands for none, left out", f"class {brief(name)}"
            )
            continue
        into.categories[category_id] = name
    for record in content["categories"]:
        into.category_records[as_id(record["id"]) or 0] = {
            key: value for key, value in record.items() if key not in ("id", "name")
        }


def _read_one(
    path: Path, content: Mapping[str, Any], split: str, source: LabelSource, into: Gathered
) -> None:
    images: dict[str, ImageEntry] = {}
    left_out: set[str] = set()
    for number, record in enumerate(content["images"]):
        where = f"{shown(path)}: image {number} of the list"
        with into.faults(where):
            key = _key(record)
            left_out.add(key)
            if key in images:
                raise FaultError("image id given twice", f"the id {brief(record['id'])} is taken")
            images[key] = _image(record, path, split, source, into)
            left_out.discard(key)
    brush = not source.keep_crowds and _by_datumaro(content)
    for number, record in enumerate(content["annotations"]):
        known = as_id(record.get("id")) if isinstance(record, Mapping) else None
        where = (
            f"{shown(path)}: annotation {number} of the list"
            if known is None
            else f"{shown(path)}: annotation {known}"
        )
        mended: list[str] = []
        try:
            if not isinstance(record, Mapping):
                raise FaultError("no record", f"it is a {kind_of(record)}, not an object")
            key = str(record.get("image_id"))
            if key not in images:
                what = (
                    "that of its image is left out" if key in left_out else f"there is no image {brief(key)}"
                )
                raise FaultError("image left out" if key in left_out else "unknown image", what)
            ids = check_ids({**record, "image_id": 0}, mended)
        except FaultError as fault:
            into.report.annotation(fault.kind, f"{where}: {fault}")
            continue
        crowd = ids.crowd
        if crowd and brush and not record.get("attributes", {}).get("is_crowd"):
            crowd = False
            mended.append("crowd flag that CVAT gives to every brush mask (keep it by --keep-crowds)")
        for what in mended:
            into.report.mend(what, where)
        kept = {k: v for k, v in record.items() if k not in ("image_id", "category_id", "id")}
        kept |= {"iscrowd": int(crowd), "id": known}
        into.add(images[key], ids.category, where, kept)


def _key(record: Any) -> str:
    """What annotations call an image: a number of any size, or a text."""
    if not isinstance(record, Mapping):
        raise FaultError("no image record", f"it is a {kind_of(record)}, not an object")
    if not isinstance(record.get("id"), int | str):
        raise FaultError("image without a sound id", "it needs an 'id'")
    return str(record["id"])


def _image(
    record: Mapping[str, Any], path: Path, split: str, source: LabelSource, into: Gathered
) -> ImageEntry:
    name = record.get("file_name") or record.get("path")
    if not isinstance(name, str):
        raise FaultError("image without a file name", "it needs a 'file_name' that is a text")
    sides = [as_id(record.get(key)) for key in ("height", "width")]
    says = (sides[0], sides[1]) if sides[0] and sides[1] and min(sides[0], sides[1]) > 0 else None
    rest = {k: v for k, v in record.items() if k not in ("id", "file_name", "height", "width")}
    file = source.find_image(name, path.parent, split)
    image = into.image(split, file, says, id=as_id(record["id"]), **rest)
    if says is None:
        into.report.mend("image size taken from the file", f"image {brief(record['id'])}")
    if image.record["id"] is None:
        into.report.mend(
            "image ids that are no 64-bit numbers, numbered anew", f"image {brief(record['id'])}"
        )
    return image


def _by_datumaro(content: Mapping[str, Any]) -> bool:
    """Whether CVAT wrote it (through datumaro, whose annotations have attributes, ``occluded`` among them).

    It flags each annotation that is not polygons as a crowd (cvat-ai/cvat, issue 7030).
    """
    found: Iterable[Any] = content["annotations"]
    return any(isinstance(a, Mapping) and "occluded" in (a.get("attributes") or {}) for a in found)


@EXPORTERS.register("coco")
def export_coco(splits: Mapping[str, Dataset], out: Path) -> Counter[str]:
    """``data.yaml``, ``images/SPLIT/...`` and ``SPLIT.json``; nothing is lost that the reader keeps."""
    contents = {}
    for split, dataset in splits.items():
        truth = dataset.ground_truth()
        images, annotations = [], []
        for image in exported_images(dataset):
            copy_file(image.path, out / "images" / split / image.name)
            sides = {"height": image.height, "width": image.width}
            images.append({"id": image.image_id, "file_name": image.name, **sides})
            annotations += [_record(truth, row, image.image_id) for row in image.rows]
        schema = dataset.keypoints
        posed = {}
        if schema is not None:
            skeleton = [[a + 1, b + 1] for a, b in schema.skeleton]
            posed = {"keypoints": list(schema.names), "skeleton": skeleton}
        pairs = zip(truth.category_ids, truth.category_names, strict=True)
        categories = [{"id": i, "name": name, **posed} for i, name in pairs]
        content = {"images": images, "annotations": annotations, "categories": categories}
        contents[split] = (Path("images") / split, content)
    has_masks = all(dataset.ground_truth().has_masks for dataset in splits.values())
    write_data_folder(out, contents, masks=has_masks, keypoints=any(d.keypoints for d in splits.values()))
    return Counter()


def _record(truth: GroundTruth, row: int, image_id: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": int(truth.annotation_ids[row]),
        "image_id": image_id,
        "category_id": truth.category_ids[int(truth.labels[row])],
        "bbox": truth.boxes[row].tolist(),
        "area": truth.area(row),
        "iscrowd": int(truth.crowds[row]),
    }
    if truth.encode is not None and truth.outline is not None:
        record["segmentation"] = truth.outline(row) or rle.as_text(truth.encode(row))
    if truth.keypoints is not None:
        record["keypoints"] = truth.keypoints[row].tolist()
        record["num_keypoints"] = int(truth.labelled[row])
    return record
