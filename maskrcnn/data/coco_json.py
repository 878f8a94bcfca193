"""Reading a COCO json: its text, its classes and its image records."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.categories import Categories
from maskrcnn.errors import DataError
from maskrcnn.structures import KeypointSchema


def load_coco(path: Path) -> dict[str, Any]:
    """The content of a COCO json: its three lists are there, their entries are not checked yet.

    Raises:
        DataError: the file is missing, unreadable, broken, or no COCO json.
    """
    content = read_json(path, _compact)
    if not isinstance(content, dict):
        raise DataError(f"{path}: a COCO file is a json object, this is a {kind_of(content)}")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise DataError(f"{path}: a COCO file needs the key {key!r}; it has {sorted(content)}")
        if not isinstance(content[key], list):
            raise DataError(f"{path}: {key!r} must be a list, it is a {kind_of(content[key])}")
    return content


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any]) -> Any:
    """The content of a json file, every object of it replaced by what ``hook`` makes of it.

    Raises:
        DataError: the file is missing, unreadable or broken.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such annotation file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    try:
        return json.loads(text, object_hook=hook)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: the json is broken: {error.msg}; is the file complete?"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: the json is nested too deeply to be a COCO file") from None


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Polygons as arrays while the json is still being read: a tenth of the memory of lists of floats."""
    segmentation = record.get("segmentation")
    if type(segmentation) is list:
        # Where not all are numbers, the check of the annotation says so.
        with contextlib.suppress(TypeError, OverflowError):
            record["segmentation"] = [array("d", p) if type(p) is list else p for p in segmentation]
    return record


def kind_of(value: object) -> str:
    """What json calls the value."""
    names = {dict: "object", list: "list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")


def read_categories(records: list[Any], path: Path) -> Categories:
    """The classes, by rising id.

    Raises:
        DataError: a record is faulty, an id repeats, or there are none.
    """
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


def read_keypoint_schema(records: list[Any], path: Path) -> KeypointSchema:
    """The keypoints that the class records (checked before) define; classes without any are let be.

    Raises:
        DataError: no class defines keypoints, two define different ones, or a definition is faulty.
    """
    found: tuple[str, KeypointSchema] | None = None
    for record in records:
        names, pairs = record.get("keypoints"), record.get("skeleton") or []
        if not names:
            continue
        where = f"{path}: category {record['name']!r}"
        if not isinstance(names, list) or not all(type(n) is str for n in names):
            raise DataError(f"{where}: its 'keypoints' must be a list of names")
        if len(set(names)) != len(names):
            raise DataError(f"{where}: two of its 'keypoints' have the same name")
        try:
            skeleton = tuple((a - 1, b - 1) for a, b in pairs)  # COCO counts them from 1
        except (TypeError, ValueError):
            raise DataError(f"{where}: its 'skeleton' must be a list of pairs of integers") from None
        if not all(0 <= j < len(names) for pair in skeleton for j in pair):
            raise DataError(f"{where}: its 'skeleton' names keypoints outside 1..{len(names)}")
        schema = KeypointSchema(tuple(names), skeleton)
        try:
            schema.mirror  # noqa: B018 - raises where it cannot be told
        except ValueError as error:
            raise DataError(f"{where}: {error}; name them left_* and right_*") from None
        if found is not None and found[1].names != schema.names:
            raise DataError(f"{where}: its keypoints differ from those of {found[0]!r}; a model has one kind")
        found = found or (record["name"], schema)
    if found is None:
        raise DataError(f"{path}: no category defines 'keypoints'; leave them out with keypoints: false")
    return found[1]


def difference(own: Categories, wanted: Categories) -> str:
    """In words, where two sets of classes differ."""
    a, b = dict(zip(own.ids, own.names, strict=True)), dict(zip(wanted.ids, wanted.names, strict=True))
    unlike = [
        f"id {i} is {a.get(i, 'missing')!r} here and {b.get(i, 'missing')!r} there"
        for i in sorted(a.keys() | b.keys())
        if a.get(i) != b.get(i)
    ]
    return "; ".join(unlike[:5]) + (f"; and {len(unlike) - 5} more" if len(unlike) > 5 else "")


class ImageRecords:
    """The image records, checked, by rising id.

    index: place by image id.  ids: int64 [N].  sizes: int32 [N, 2] (height, width), pixels.
    names, name_ends: the file names in UTF-8 in a row, uint8, and where each ends, int64 [N]; names that no
        UTF-8 can write (bytes of another encoding, as Python lists them) by ``surrogatepass``.

    Raises:
        DataError: a record is faulty, or an id repeats.
    """

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
        names = [seen[i][0].encode("utf-8", "surrogatepass") for i in order]
        self.names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self.name_ends = np.cumsum([len(n) for n in names], dtype=np.int64)
