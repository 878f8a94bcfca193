"""labelme: a json file an image, with polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import binascii
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.checks import as_float, is_number
from maskrcnn.data.formats.coco_json import as_id, brief, kind_of, read_json
from maskrcnn.data.formats.exchange import EXPORTERS, IMPORTERS, Gathered, ImageEntry
from maskrcnn.data.formats.exported import exported_images
from maskrcnn.data.formats.sources import LabelSource, split_of
from maskrcnn.data.image_header import check_size
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import DataError, plural
from maskrcnn.files import copy_file, write_json
from maskrcnn.structures import rle

#: Shapes without an area.
_NO_AREA = ("line", "linestrip", "point", "points")
#: How far a circle's polygon may lie from it, in pixels.
_CIRCLE_ERROR = 0.05


@IMPORTERS.register("labelme")
class LabelmeImporter:
    title = "labelme's jsons (a file an image, with 'shapes')"

    def find(self, source: LabelSource) -> str:
        count = sum(map(_looks_like_one, source.with_suffix(".json")))
        return f"{plural(count, 'json')} of labelme's" if count else ""

    def read(self, source: LabelSource, into: Gathered) -> None:
        for path in filter(_looks_like_one, source.with_suffix(".json")):
            with into.faults(shown(path)):
                try:
                    content = read_json(path)
                except DataError as error:
                    raise FaultError("broken json", str(error)) from None
                _read_file(path, content, source, into)


def _looks_like_one(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return False
    return '"shapes"' in text and '"imagePath"' in text


def _read_file(path: Path, content: Any, source: LabelSource, into: Gathered) -> None:
    if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
        raise FaultError("no shapes", "it needs a list 'shapes'")
    name = content.get("imagePath")
    if not isinstance(name, str):
        raise FaultError("image without a file name", "it needs an 'imagePath' that is a text")
    split = split_of(path.relative_to(source.folder))
    file = source.find_image(name, path.parent, split)
    sides = [as_id(content.get(key)) for key in ("imageHeight", "imageWidth")]
    says = (sides[0], sides[1]) if sides[0] and sides[1] and min(sides[0], sides[1]) > 0 else None
    image = into.image(split, file, says)
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for number, shape in enumerate(content["shapes"]):
        group = shape.get("group_id") if isinstance(shape, Mapping) else None
        single = group is None or shape.get("shape_type") in _NO_AREA
        key = (number,) if single else ("group", str(shape.get("label")), str(group))
        groups.setdefault(key, []).append((number, shape))
    for shapes in groups.values():
        number, first = shapes[0]
        where = f"{shown(path)}: shape {number}"
        try:
            record = _record([shape for _, shape in shapes], image, into)
        except FaultError as fault:
            into.report.annotation(fault.kind, f"{where}: {fault}")
            continue
        if record is not None:
            into.add(image, first["label"], where, record)


def _record(shapes: list[Any], image: ImageEntry, into: Gathered) -> dict[str, Any] | None:
    """The object that shapes of one label and group are; None where they have no area."""
    parts: list[tuple[list[float], rle.RLE | None]] = []
    for shape in shapes:
        if not isinstance(shape, Mapping):
            raise FaultError("no record", f"it is a {kind_of(shape)}, not an object")
        if not isinstance(shape.get("label"), str) or not shape["label"]:
            raise FaultError("no label", f"its 'label' is {brief(shape.get('label'))}, not a text")
        kind = shape.get("shape_type", "polygon")
        if kind in _NO_AREA:
            into.lost[f"{kind} (has no area)"] += 1
            return None
        parts.append(_part(kind, shape, image))
    flags = shapes[0].get("flags")
    crowd = isinstance(flags, Mapping) and flags.get("iscrowd") is True
    record: dict[str, Any] = {"iscrowd": int(crowd)}
    if len(parts) == 1 and shapes[0].get("shape_type") == "rectangle":
        x1, y1, x2, y2 = parts[0][0][0], parts[0][0][1], parts[0][0][4], parts[0][0][5]
        return record | {"bbox": [x1, y1, x2 - x1, y2 - y1], "fills": True}
    codes = [code for _, code in parts if code is not None]
    if codes:
        drawn = [np.array(polygon) for polygon, code in parts if code is None]
        codes += [rle.from_polygons(drawn, image.height, image.width)] if drawn else []
        return record | {"segmentation": rle.as_text(rle.union(codes, image.height, image.width))}
    return record | {"segmentation": [polygon for polygon, _ in parts]}


def _part(kind: Any, shape: Mapping[str, Any], image: ImageEntry) -> tuple[list[float], rle.RLE | None]:
    """A shape as a polygon, flat x, y, and as a code where it is a mask."""
    points = shape.get("points")
    sound = isinstance(points, list) and all(
        isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points
    )
    if not sound:
        raise FaultError("wrong type", "its 'points' are not a list of pairs of numbers")
    flat = [as_float(v) for p in points or () for v in p]
    if kind == "polygon":
        return flat, None
    if kind not in ("rectangle", "circle", "mask") or len(flat) != 4:
        what = f"a shape of the type {brief(kind)}"
        raise FaultError(
            "unknown shape", f"{what} with {plural(len(flat) // 2, 'point')} is none that is known here"
        )
    if not all(abs(v) < 1e6 for v in flat):
        raise FaultError("wrong type", "its 'points' hold a number that is not finite, or far away")
    x1, y1, x2, y2 = flat
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x2 - x1, y2 - y1)
        count = max(12, math.ceil(math.pi / math.acos(1 - min(_CIRCLE_ERROR / max(radius, 1e-6), 0.5))))
        turns = (2 * math.pi * k / count for k in range(count))
        return [v for t in turns for v in (x1 + radius * math.cos(t), y1 + radius * math.sin(t))], None
    x1, y1, x2, y2 = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    rectangle = [x1, y1, x2, y1, x2, y2, x1, y2]
    return rectangle, _mask(shape.get("mask"), x1, y1, image) if kind == "mask" else None


def _mask(text: Any, x: float, y: float, image: ImageEntry) -> rle.RLE:
    """The code of a PNG in base64 whose upper left pixel is (x, y)."""
    try:
        data = base64.b64decode(text, validate=True)
        check_size(data)
        png = np.frombuffer(data, dtype=np.uint8)
        bitmap = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE) if len(png) else None
    except (TypeError, ValueError, binascii.Error, cv2.error):
        bitmap = None
    if bitmap is None:
        raise FaultError("broken mask", "its 'mask' is no image in base64")
    x0, y0 = round(x), round(y)
    h, w = bitmap.shape
    if x0 < 0 or y0 < 0 or y0 + h > image.height or x0 + w > image.width:
        inside = f"the {image.width}x{image.height} image"
        raise FaultError(
            "mask outside the image", f"its mask of {w}x{h} at ({x0}, {y0}) is not inside {inside}"
        )
    return rle.encode_crop((bitmap > 0).astype(np.uint8), x0, y0, image.height, image.width)


@EXPORTERS.register("labelme")
def export_labelme(splits: Mapping[str, Dataset], out: Path) -> Counter[str]:
    """``SPLIT/NAME.png`` with ``SPLIT/NAME.json`` beside it: polygons stay so, codes become masks."""
    lost: Counter[str] = Counter()
    for split, dataset in splits.items():
        truth = dataset.ground_truth()
        for image in exported_images(dataset):
            shapes: list[dict[str, Any]] = []
            for row in image.rows:
                label = truth.category_names[int(truth.labels[row])]
                flags = {"iscrowd": True} if truth.crowds[row] else {}
                parts = None if truth.outline is None else truth.outline(row)
                if truth.encode is None or parts is None:
                    code = None if truth.encode is None else truth.encode(row)
                    shapes.append(labelme_shape(label, truth.boxes[row].tolist(), code, flags=flags))
                else:
                    group = len(shapes) + 1 if len(parts) > 1 else None
                    for part in parts:
                        points = [list(point) for point in zip(part[::2], part[1::2], strict=True)]
                        shapes.append(_shape(label, "polygon", points, group_id=group, flags=flags))
                lost["annotation id and stated area"] += 1
                lost["keypoints"] += len(truth.labelled) > 0 and int(truth.labelled[row]) > 0
            file = out / split / image.name
            copy_file(image.path, file)
            name = PurePosixPath(image.name).name
            content = labelme_content(name, image.height, image.width, shapes)
            write_json(file.with_suffix(".json"), content, indent=2)
    return lost


def labelme_content(name: str, height: int, width: int, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    """What the json of an image holds; ``name`` is its file, relative to the json's folder."""
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def labelme_shape(
    label: str, box: Sequence[float], code: rle.RLE | rle.TextRLE | None, **fields: Any
) -> dict[str, Any]:
    """An object as a mask, or where it has no pixel as the rectangle of its box (x, y, width, height)."""
    if code is not None and rle.area(code):
        return _shape(label, "mask", **_mask_fields(code), **fields)
    x, y, w, h = box
    return _shape(label, "rectangle", [[x, y], [x + w, y + h]], **fields)


def _shape(label: str, kind: str, points: list[list[float]], **fields: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"label": label, "group_id": None, "description": "", "flags": {}, "mask": None}
    return {**plain, "shape_type": kind, "points": points, **fields}


def _mask_fields(code: rle.RLE | rle.TextRLE) -> dict[str, Any]:
    """Corners of the box, both among its pixels, and the PNG of what is in it."""
    bitmap, x0, y0 = rle.decode_crop(code)
    h, w = bitmap.shape
    made, png = cv2.imencode(".png", bitmap * 255) if bitmap.size else (False, np.zeros(0, np.uint8))
    text = base64.b64encode(png.tobytes()).decode("ascii") if made else ""
    return {"points": [[float(x0), float(y0)], [float(x0 + w - 1), float(y0 + h - 1)]], "mask": text}
