"""Label images: what the values or colours of an image file of masks mean, as objects."""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.exchange import Gathered, ImageEntry
from maskrcnn.data.formats.sources import LabelSource
from maskrcnn.errors import DataError, plural
from maskrcnn.structures import rle

#: Colours of classes, as CVAT and Pascal VOC write them: a line ``name:r,g,b:parts:actions`` each.
_COLOURS = "labelmap.txt"
#: Our own table beside label images: file,value,class,crowd.
TABLE_FILE = "classes.csv"
_LOSSY = (".jpg", ".jpeg")
#: Values of a file with more are those of a photograph, not of a label image.
_MOST_VALUES = 100_000

_Pixels: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class MaskFile:
    """A file of masks, the class that its folder names, and whether it is one mask of several of its image.

    classes: the file whose colours are the classes of its objects (of Pascal VOC's two).
    """

    path: Path
    class_name: str
    single: bool
    classes: Path | None = None


@dataclass(frozen=True)
class LabelTable:
    """What the values of label images mean.

    colours: class by 0xRRGGBB.  listed: class, and whether a crowd, by file and value.
    ignored: values that are no fault without a class.
    parts: the separate parts of a value are objects.
    """

    colours: Mapping[int, str]
    listed: Mapping[Path, Mapping[int, tuple[str, bool]]]
    ignored: frozenset[int]
    parts: bool


@dataclass(frozen=True)
class _Object:
    """An object's 0/1 window, its corner in the image, its class, and whether it is a crowd."""

    window: npt.NDArray[np.uint8]
    x0: int
    y0: int
    class_name: str
    crowd: bool = False


#: No table.
NO_TABLE = LabelTable({}, {}, frozenset(), False)


def all_binary(paths: list[Path]) -> bool:
    """Whether no file has two values besides that of the background; unreadable ones do not count."""
    for path in paths:
        try:
            pixels = read_labels(path)
        except FaultError:
            continue
        if pixels.ndim == 3 or len(np.unique(pixels[pixels != 0])) > 1:
            return False
    return True


def read_labels(path: Path) -> _Pixels:
    """The values of a label image [H, W], indices of a palette as they are; or its colours, uint8 [H, W, 3].

    Raises:
        FaultError: it cannot be read, has several pages, or values that are no whole numbers.
    """
    try:
        with Image.open(path) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise FaultError(
                    "several pages",
                    f"{shown(path)} holds {plural(picture.n_frames, 'page')}; store each as a file of its"
                    " own",
                )
            if picture.mode in ("LA", "RGBA", "CMYK", "YCbCr", "PA"):
                picture = picture.convert("RGBA" if picture.mode in ("LA", "PA") else picture.mode).convert(
                    "RGB"
                )
            pixels = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:120] or type(error).__name__
        raise FaultError("unreadable mask", f"{shown(path)} cannot be read: {reason}") from None
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and (pixels == np.rint(pixels)).all()):
            raise FaultError("values of a mask", f"{shown(path)} holds values that are no whole numbers")
        pixels = pixels.astype(np.int64)
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():  # gray, stored as colours
        pixels = pixels[..., 0]
    return pixels


def read_masks(mask: MaskFile, image: ImageEntry, table: LabelTable, into: Gathered) -> None:
    where = shown(mask.path)
    try:
        pixels = read_labels(mask.path)
        if pixels.shape[:2] != (image.height, image.width):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise FaultError(
                "mask of another size", f"it is {size}, its image {image.width}x{image.height} pixels"
            )
        if mask.path.suffix.lower() in _LOSSY:
            if pixels.ndim == 3:
                raise FaultError("colours of a JPEG", "its colours are not exact; store it as a PNG")
            pixels = (pixels > 127).astype(np.uint8)
            into.report.mend("JPEG of a mask read as light on dark", where)
        if mask.single:
            plane = pixels.any(axis=2) if pixels.ndim == 3 else pixels != 0
            dense: npt.NDArray[np.int64] = np.asarray(plane, dtype=np.int64)
            window, x0, y0 = next(_windows(dense), (np.zeros((1, 1), np.uint8), 0, 0))
            found = [_Object(window, x0, y0, mask.class_name)]
        else:
            found = list(_objects(_flat(pixels), mask, table, where, into))
    except FaultError as fault:
        into.report.annotation(fault.kind, f"{where}: {fault}")
        return
    for one in found:
        code = rle.encode_crop(one.window, one.x0, one.y0, image.height, image.width)
        record = {"segmentation": rle.as_text(code), "iscrowd": int(one.crowd)}
        into.add(image, one.class_name, where, record)


def _flat(pixels: _Pixels) -> npt.NDArray[np.int64]:
    """Colours [H, W, 3] as one number each, 0xRRGGBB; values as they are."""
    wide = pixels.astype(np.int64)
    return wide if wide.ndim == 2 else (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _objects(
    pixels: npt.NDArray[np.int64], mask: MaskFile, table: LabelTable, where: str, into: Gathered
) -> Iterator[_Object]:
    """The objects of a label image: of a class each, by what there is to tell it."""
    values, dense = np.unique(pixels, return_inverse=True)
    if len(values) > _MOST_VALUES:
        raise FaultError(
            "values of a mask",
            f"it holds {plural(len(values), 'value')}, more than a label image has objects",
        )
    dense = dense.reshape(pixels.shape).astype(np.int64) + 1
    dense[pixels == 0] = 0
    listed = table.listed.get(mask.path)
    beside = None if mask.classes is None else _flat(read_labels(mask.classes))
    by_class = beside is None and listed is None and bool(table.colours)
    if by_class or (
        table.parts and listed is None and beside is None
    ):  # a value is a class, and its separate parts are the objects
        if not by_class:
            what = (
                "separate parts of a file of one value taken for objects (--binary whole takes all for one)"
            )
            into.report.mend(what, where)
        dense = _separate(dense, values)
    for window, x0, y0 in _windows(dense):
        y, x = np.argwhere(window)[0].tolist()
        value = int(pixels[y0 + y, x0 + x])
        name, crowd = mask.class_name, False
        if listed is not None:
            name, crowd = listed.get(value, ("", False))
        elif beside is not None or by_class:
            value = value if beside is None else int(beside[y0 + y, x0 + x])
            name = table.colours.get(value, "")
        if name:
            yield _Object(window, x0, y0, name, crowd)
        elif value not in table.ignored:
            what = f"{value}" if listed is not None else f"{value >> 16},{value >> 8 & 255},{value & 255}"
            source = TABLE_FILE if listed is not None else _COLOURS
            into.report.annotation("value without a class", f"{where}: {source} has no line for {what}")


def _separate(dense: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Numbers of the 8-connected parts of each value; 0 stays 0."""
    out = np.zeros_like(dense)
    for k in range(1, len(values) + 1):
        count, parts = cv2.connectedComponents((dense == k).astype(np.uint8), connectivity=8)
        if count > 1:
            out[parts > 0] = parts[parts > 0] + int(out.max())
    return out


def _windows(dense: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.uint8], int, int]]:
    """The 0/1 window of each number above 0, by rising number, and its corner x0, y0."""
    ys, xs = np.nonzero(dense)
    numbers = dense[ys, xs]
    order = np.argsort(numbers, kind="stable")
    ys, xs, numbers = ys[order], xs[order], numbers[order]
    starts = np.flatnonzero(np.diff(numbers, prepend=0))
    for first, last in itertools.pairwise([*starts.tolist(), len(numbers)]):
        y, x = ys[first:last], xs[first:last]
        x0, y0 = int(x.min()), int(y.min())
        window = np.zeros((int(y.max()) - y0 + 1, int(x.max()) - x0 + 1), dtype=np.uint8)
        window[y - y0, x - x0] = 1
        yield window, x0, y0


def read_tables(source: LabelSource, parts: bool) -> LabelTable:
    """What the files beside the masks say of their values.

    Raises:
        DataError: one is broken.
    """
    colours: dict[int, str] = {}
    listed: dict[Path, dict[int, tuple[str, bool]]] = defaultdict(dict)
    ignored: set[int] = set()
    for path in source.files:
        if path.name not in (_COLOURS, TABLE_FILE):
            continue
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                if path.name == _COLOURS and not line.startswith("#") and line.strip():
                    name, colour = line.split(":")[:2]
                    r, g, b = map(int, colour.split(","))
                    value = r << 16 | g << 8 | b
                    (ignored.add(value) if name == "background" else colours.update({value: name}))
                elif path.name == TABLE_FILE and number > 1 and line.strip():
                    file, value_text, name, crowd = next(csv.reader([line]))
                    listed[path.parent / file][int(value_text)] = name, crowd == "1"
            except ValueError:
                form = "name:red,green,blue::" if path.name == _COLOURS else "file,value,class,crowd"
                raise DataError(f"{shown(path)}:{number}: write lines of the form {form}") from None
    return LabelTable(colours, listed, frozenset(ignored), parts)
