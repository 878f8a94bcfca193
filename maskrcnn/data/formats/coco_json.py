"""Reading a COCO json: its text, its classes and its image records."""

from __future__ import annotations

import codecs
import contextlib
import gc
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.fault_report import FaultError, FaultReport
from maskrcnn.errors import DataError, few
from maskrcnn.structures import KeypointSchema
from maskrcnn.structures.categories import Categories

try:
    import msgspec

    #: What it raises at text that the standard library reads after all (NaN, numbers beyond float64 ...), or
    #: of which the standard library says what is wrong.  All else both read alike, to the bit.
    _REFUSALS: tuple[type[Exception], ...] = (msgspec.MsgspecError, ValueError, RecursionError)
except ImportError:  # it has no wheel for this machine: the standard library takes twice the time
    msgspec, _REFUSALS = None, (AttributeError,)  # type: ignore[assignment]


def load_coco(source: Path | Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The content of a COCO json: its three lists are there, their entries are not checked yet.

    source: the file, or what ``json.load`` makes of it.  name: what messages call it.

    Raises:
        DataError: the file is missing, unreadable, broken, or no COCO json.
    """
    content = source if isinstance(source, Mapping) else _read_in_parts(source)
    if not isinstance(content, Mapping):
        raise DataError(f"{name}: a COCO file is a json object, this is a {kind_of(content)}")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            keys = few(sorted(map(brief, content)))
            raise DataError(f"{name}: a COCO file needs the key {key!r}; it has {keys}")
        if not isinstance(content[key], list | _Encoded):
            raise DataError(f"{name}: {key!r} must be a list, it is a {kind_of(content[key])}")
    return content


class _Encoded(Sequence[Any]):
    """The records of a list, decoded when they are asked for: all at once they take many times the memory.

    Raises:
        DataError: (where they are asked for) the json is broken.
    """

    def __init__(self, records: Sequence[Any], path: Path) -> None:
        self._records, self._path = records, path

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, at: Any) -> Any:
        return [self._decoded(record) for record in self._records[at]]

    def _decoded(self, record: Any) -> Any:
        with contextlib.suppress(*_REFUSALS):
            return msgspec.json.decode(record)
        try:
            return json.loads(str(record, "utf-8"))
        except (ValueError, RecursionError):
            _parse(_read(self._path), self._path, None)  # says what is wrong, and where
            raise


def _read_in_parts(path: Path) -> Any:
    """The content of a COCO json, its annotations still encoded where they can be."""
    data = _read(path)
    with uncollected():
        with contextlib.suppress(*_REFUSALS, KeyError):
            content = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            annotations = msgspec.json.decode(content.pop("annotations"), type=list[msgspec.Raw])
            found = {key: msgspec.json.decode(value) for key, value in content.items()}
            return found | {"annotations": _Encoded(annotations, path)}
        return _parse(data, path, _compact)


def source_name(source: Path | Mapping[str, Any]) -> str:
    """What messages call it."""
    return "the annotations" if isinstance(source, Mapping) else str(source)


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a json file, every object of it replaced by what ``hook`` makes of it.

    A byte order mark, as Windows editors write it, is passed over.

    Raises:
        DataError: the file is missing, unreadable or broken.
    """
    data = _read(path)
    with uncollected():
        if hook is None:
            with contextlib.suppress(*_REFUSALS):
                return msgspec.json.decode(data)
        return _parse(data, path, hook)


def _read(path: Path) -> bytes:
    """The bytes of a file, without a mark of their order."""
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parse(data: bytes, path: Path, hook: Callable[[dict[str, Any]], Any] | None) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_hook=hook)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: the json is broken: {error.msg}; is the file complete?"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: the json is nested too deeply to be a COCO file") from None
    except ValueError:  # Python refuses to convert numbers of thousands of digits
        raise DataError(f"{path}: the json holds a number of thousands of digits; is it damaged?") from None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside, where much is made and nothing is garbage: the search takes its time.

    Nor is it searched soon after, as new objects are: what was made counts as old.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            if not gc.get_freeze_count():  # else someone else's would be thawed
                gc.freeze()
                gc.unfreeze()
            gc.enable()


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


def as_id(value: object) -> int | None:
    """An id, from an integer, digits in quotes or a float without fraction; None where it is none of them.

    Ids fit into 64 bits, since arrays and native code hold them so.
    """
    if (isinstance(value, str) and len(value) < 40 and as_digits(value)) or (
        isinstance(value, float) and value.is_integer()
    ):
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        return None
    return value


def id_trouble(key: str, record: Mapping[str, Any]) -> str:
    """Why :func:`as_id` takes no ``record[key]``."""
    if key not in record:
        return f"it has no {key!r}"
    value = record[key]
    if isinstance(value, str) and not as_digits(value):
        return f"its {key!r} is the text {brief(value)}, not an integer"
    if isinstance(value, int | str) and not isinstance(value, bool):
        return f"its {key!r} is {brief(value)}; ids must lie below 2^63, number them anew"
    return f"its {key!r} is {brief(value)}, not an integer"


def as_digits(text: str) -> bool:
    """Whether a text is nothing but a number."""
    return re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) is not None


def brief(value: object, most: int = 60) -> str:
    """``repr`` cut to a length that a sentence bears, whatever the value is."""
    if type(value) is int and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    if isinstance(value, list | tuple | dict):
        return f"a {kind_of(list(value) if isinstance(value, tuple) else value)} of {len(value)}"
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else text[:most] + "..."


def read_categories(records: list[Any], name: str) -> Categories:
    """The classes, by rising id.

    Raises:
        DataError: a record is faulty, an id repeats, or there are none.
    """
    found: dict[int, str] = {}
    for number, record in enumerate(records):
        where = f"{name}: category {number} of the list"
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: it is a {kind_of(record)}, not an object")
        category_id = as_id(record.get("id"))
        if category_id is None:
            raise DataError(f"{where}: it needs an 'id' that is an integer ({id_trouble('id', record)})")
        label = record.get("name")
        if type(label) is int:
            label = str(label) if abs(label) < 10**30 else None
        if not isinstance(label, str):
            raise DataError(f"{where} (id {category_id}): it needs a 'name' that is a text")
        if category_id in found:
            raise DataError(
                f"{where}: the id {category_id} is taken by {brief(found[category_id])};"
                f" give {brief(label)} another"
            )
        found[category_id] = label
    if not found:
        raise DataError(f"{name}: it has no categories")
    ids = tuple(sorted(found))
    return Categories(ids, tuple(found[i] for i in ids))


def root_class(records: list[Any], categories: Categories, used: list[int]) -> int | None:
    """The class that only groups the others, as some exporters list it; None where there is none.

    records: the class records, checked before.  used: class indices that an annotation has.
    """
    groups = {as_id(r["id"]): r.get("supercategory") for r in records}
    for c, (category_id, name) in enumerate(zip(categories.ids, categories.names, strict=True)):
        others = [groups[i] for i in categories.ids if i != category_id]
        if c not in used and others and all(g == name for g in others):
            return c
    return None


def read_keypoint_schema(records: list[Any], path: str) -> KeypointSchema:
    """The keypoints that the class records (checked before) define; classes without any are let be.

    Raises:
        DataError: no class defines keypoints, two define different ones, or a definition is faulty.
    """
    found: tuple[str, KeypointSchema] | None = None
    for record in records:
        names, pairs = record.get("keypoints"), record.get("skeleton") or []
        if not names:
            continue
        where = f"{path}: category {brief(record['name'])}"
        if not isinstance(names, list) or not all(type(n) is str for n in names):
            raise DataError(f"{where}: its 'keypoints' must be a list of names")
        if len(set(names)) != len(names):
            raise DataError(f"{where}: two of its 'keypoints' have the same name")
        if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
            raise DataError(f"{where}: its 'skeleton' must be a list of pairs of integers")
        skeleton = tuple((a - 1, b - 1) for a, b in pairs)  # COCO counts them from 1
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


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(j) is int for j in value)


def difference(own: Categories, wanted: Categories) -> str:
    """In words, where two sets of classes differ."""
    a, b = dict(zip(own.ids, own.names, strict=True)), dict(zip(wanted.ids, wanted.names, strict=True))
    unlike = [
        f"id {i} is {a.get(i, 'missing')!r} here and {b.get(i, 'missing')!r} there"
        for i in sorted(a.keys() | b.keys())
        if a.get(i) != b.get(i)
    ]
    return few(unlike, 5, "; ")


class ImageRecords:
    """The image records, checked, by rising id.

    index: place by image id.  ids: int64 [N].  sizes: int32 [N, 2] (height, width), pixels.
    names, name_ends: the file names in UTF-8 in a row, uint8, and where each ends, int64 [N].
    dropped: ids of faulty records, which are left out.

    Args:
        report: takes the faulty records.
        files: whether a record needs a 'file_name' (results can be evaluated without).

    Raises:
        DataError: an id stands for two different images; or a record is faulty and the report raises.
    """

    def __init__(self, records: list[Any], name: str, report: FaultReport, *, files: bool = True) -> None:
        seen: dict[int, tuple[bytes, int, int]] = {}
        dropped: set[int] = set()
        for number, record in enumerate(records):
            try:
                image_id, entry = _image_record(record, files)
            except FaultError as fault:
                known = as_id(record.get("id")) if isinstance(record, Mapping) else None
                where = f"image {number} of the list" if known is None else f"image {known}"
                if known is not None:
                    dropped.add(known)
                report.record(fault.kind, f"{name}: {where}: {fault}", known)
                continue
            if seen.setdefault(image_id, entry) != entry:
                raise DataError(f"{name}: image {image_id}: the id stands for two images, give each its own")
        order = sorted(seen)
        self.dropped = frozenset(dropped - seen.keys())
        self.index = {image_id: i for i, image_id in enumerate(order)}
        self.ids = np.asarray(order, dtype=np.int64)
        self.sizes = np.asarray([seen[i][1:] for i in order], dtype=np.int32).reshape(-1, 2)
        names = [seen[i][0] for i in order]
        self.names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self.name_ends = np.cumsum([len(n) for n in names], dtype=np.int64)


def _image_record(record: Any, files: bool) -> tuple[int, tuple[bytes, int, int]]:
    """Id, and (file name in UTF-8, height, width), of an image record.

    Raises:
        FaultError: one of them is missing or unusable.
    """
    if not isinstance(record, Mapping):
        raise FaultError("no image record", f"it is a {kind_of(record)}, not an object")
    image_id = as_id(record.get("id"))
    if image_id is None:
        raise FaultError("image without a sound id", f"it needs an 'id' ({id_trouble('id', record)})")
    name = record.get("file_name", "" if not files else None)
    if type(name) is not str or (files and not name):
        raise FaultError("image without a file name", "it needs a 'file_name' that is a text")
    try:
        encoded = name.encode("utf-8", "surrogateescape")  # how Python spells names that are not UTF-8
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise FaultError(
            "image whose file name is none",
            f"its 'file_name' {brief(name)} holds a character that no name has",
        )
    sides = []
    for key in ("height", "width"):
        side = as_id(record.get(key))
        if side is None or not 0 < side < 2**31:
            raise FaultError("image without a size", f"it needs a {key!r} that is an integer > 0")
        sides.append(side)
    return image_id, (encoded, sides[0], sides[1])
