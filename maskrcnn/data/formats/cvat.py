"""CVAT's own XML, "CVAT for images 1.1": polygons, boxes, ellipses and brush masks.

The XML is read as it streams by, an image at a time; a document type, by which a file can name other files
or grow without end when it is read, is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.exchange import IMPORTERS, Gathered, ImageEntry
from maskrcnn.data.formats.sources import LabelSource, split_of
from maskrcnn.errors import DataError, few, plural
from maskrcnn.structures import rle

#: Shapes without an area; ``tag`` is of the whole image.
_NO_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")
_SHAPES = ("polygon", "box", "mask", "ellipse", *_NO_AREA)
_HEAD = 64 * 1024
#: Sides of an ellipse's polygon.
_SIDES = 72

_Attributes = dict[str, str]


@dataclass
class _Image:
    """An ``<image>``: its attributes, and the element and attributes of each of its shapes."""

    attributes: _Attributes
    shapes: list[tuple[str, _Attributes]] = field(default_factory=list)


@IMPORTERS.register("cvat")
class CvatImporter:
    title = "CVAT's XML (CVAT for images 1.1)"

    def find(self, source: LabelSource) -> str:
        found = _files(source)
        return f"{plural(len(found), 'XML file')} of CVAT's" if found else ""

    def read(self, source: LabelSource, into: Gathered) -> None:
        files = _files(source)
        images: list[tuple[Path, _Image]] = []
        names: dict[str, None] = {}
        for path in files:
            _parse(path, lambda image, path=path: images.append((path, image)), names)  # type: ignore[misc]
        into.categories = dict(enumerate(names, start=1))
        for path, image in images:
            with into.faults(f"{shown(path)}: image {image.attributes.get('name', '')[:200]!r}"):
                _read_image(path, image, source, into)


def _files(source: LabelSource) -> list[Path]:
    return [path for path in source.with_suffix(".xml") if _looks_like_cvat(path)]


def _looks_like_cvat(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return b"<annotations" in head and (b"<image" in head or b"<track" in head or b"<meta" in head)


def _parse(path: Path, take: Callable[[_Image], None], names: dict[str, None]) -> None:
    """Hand over each image of a file; ``names`` takes the labels that it declares, in their order.

    Raises:
        DataError: it is no XML, has a document type, or is of a video.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    trail: list[str] = []
    open_image: list[_Image] = []

    def start(name: str, attributes: _Attributes) -> None:
        trail.append(name)
        if name == "track":
            raise DataError(f"{shown(path)}: is of a video; export it as 'CVAT for images 1.1'")
        if name == "image" and trail[:-1] == ["annotations"]:
            open_image.append(_Image(attributes))
        elif open_image and trail[-2] == "image":
            open_image[-1].shapes.append((name, attributes))

    def end(name: str) -> None:
        trail.pop()
        if name == "image" and trail == ["annotations"]:
            take(open_image.pop())

    def text(data: str) -> None:
        if trail[-3:] == ["labels", "label", "name"] and data.strip():
            names[data.strip()] = None

    def refuse(*_: Any) -> None:
        raise DataError(
            f"{shown(path)}: has a document type (<!DOCTYPE ...>), which CVAT never writes; remove it"
        )

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        what = expat.ErrorString(error.code)
        raise DataError(
            f"{shown(path)}:{error.lineno}:{error.offset + 1}: the XML is broken: {what}"
        ) from None
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from None


def _read_image(path: Path, found: _Image, source: LabelSource, into: Gathered) -> None:
    attributes = found.attributes
    sides = [attributes.get(key, "") for key in ("height", "width")]
    says = None
    if all(side.isascii() and side.isdigit() and 0 < int(side[:12]) < 2**31 for side in sides):
        says = (int(sides[0]), int(sides[1]))
    subset = attributes.get("subset")
    place = path.relative_to(source.folder) if subset is None else Path(subset) / "x"
    split = split_of(place)
    file = source.find_image(attributes.get("name", ""), path.parent, split)
    image = into.image(split, file, says)
    groups: dict[tuple[Any, ...], list[tuple[int, str, _Attributes]]] = {}
    for number, (kind, values) in enumerate(found.shapes):
        group = values.get("group_id", "0")
        alone = group == "0" or kind not in ("polygon", "mask", "ellipse")
        key = (number,) if alone else (values.get("label"), group)
        groups.setdefault(key, []).append((number, kind, values))
    ids = {name: i for i, name in into.categories.items()}
    for shapes in groups.values():
        number, kind, values = shapes[0]
        where = f"{shown(path)}: image {attributes.get('name', '')[:200]}, shape {number} ({kind})"
        if kind not in _SHAPES or kind in _NO_AREA:
            into.lost[f"{kind[:40]} (has no area)"] += 1
            continue
        label = values.get("label", "")
        try:
            record = _record([(k, v) for _, k, v in shapes], image)
        except FaultError as fault:
            into.report.annotation(fault.kind, f"{where}: {fault}")
            continue
        into.add(image, ids.get(label, label), where, record)


def _record(shapes: list[tuple[str, _Attributes]], image: ImageEntry) -> dict[str, Any]:
    kind, values = shapes[0]
    if kind == "box":
        x1, y1, x2, y2 = (_number(values, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        turned = _number(values, "rotation", "0")
        if turned == 0:
            return {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        return {"segmentation": [_turned(corners, turned)]}
    polygons = [_polygon(k, v) for k, v in shapes if k != "mask"]
    codes = [_mask(v, image) for k, v in shapes if k == "mask"]
    if not codes:
        return {"segmentation": polygons}
    drawn = (
        [rle.from_polygons([np.array(p) for p in polygons], image.height, image.width)] if polygons else []
    )
    return {"segmentation": rle.as_text(rle.union(codes + drawn, image.height, image.width))}


def _polygon(kind: str, values: _Attributes) -> list[float]:
    if kind == "ellipse":
        x, y, a, b = (_number(values, key) for key in ("cx", "cy", "rx", "ry"))
        turns = (2 * math.pi * k / _SIDES for k in range(_SIDES))
        points = [(x + a * math.cos(t), y + b * math.sin(t)) for t in turns]
        return _turned(points, _number(values, "rotation", "0"), (x, y))
    try:
        return [float(v) for point in values.get("points", "").split(";") for v in point.split(",")]
    except ValueError:
        raise FaultError("broken polygon", "its 'points' are not pairs of numbers, x,y;x,y ...") from None


def _turned(
    points: list[tuple[float, float]], degrees: float, centre: tuple[float, float] | None = None
) -> list[float]:
    """Points turned clockwise in the picture, as CVAT does, about their middle; flat x, y."""
    xs, ys = zip(*points, strict=True)
    x0, y0 = centre or ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        v for x, y in points for v in (x0 + c * (x - x0) - s * (y - y0), y0 + s * (x - x0) + c * (y - y0))
    ]


def _mask(values: _Attributes, image: ImageEntry) -> rle.RLE:
    """A brush mask: runs along the rows of a window, background first, at (left, top) in the image."""
    left, top, width, height = (int(_number(values, key)) for key in ("left", "top", "width", "height"))
    if (
        left < 0
        or top < 0
        or left + width > image.width
        or top + height > image.height
        or min(width, height) < 1
    ):
        window = f"its window of {width}x{height} at ({left}, {top})"
        raise FaultError(
            "mask outside the image", f"{window} is not inside the {image.width}x{image.height} image"
        )
    words = values.get("rle", "").split(",")
    if not all(word.strip().isascii() and word.strip().isdigit() and len(word) < 20 for word in words):
        raise FaultError("broken RLE", f"its 'rle' is not a list of numbers ({few(words, 3)[:60]})")
    runs = [int(word) for word in words]
    if sum(runs) != width * height:
        raise FaultError(
            "broken RLE", f"its 'rle' covers {sum(runs)} of the {width * height} pixels of its window"
        )
    values_of = itertools.cycle((0, 1))
    pixels = np.repeat(np.array([next(values_of) for _ in runs], dtype=np.uint8), runs)
    return rle.encode_crop(pixels.reshape(height, width), left, top, image.height, image.width)


def _number(values: _Attributes, key: str, default: str | None = None) -> float:
    text = values.get(key, default)
    if text is None:
        raise FaultError("missing key", f"it has no {key!r}")
    try:
        number = float(text)
    except ValueError:
        raise FaultError("wrong type", f"its {key!r} is {text[:40]!r}, not a number") from None
    if not abs(number) < 1e9:
        raise FaultError("wrong type", f"its {key!r} is not finite, or far away")
    return number
