"""Writes CVAT's XML, "CVAT for images 1.1", which CVAT imports into a task that has the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np
import numpy.typing as npt

from maskrcnn.structures import rle


@dataclass(frozen=True)
class CvatShape:
    """An object: its class, its box (x, y, width, height in pixels) and its mask, where it has one."""

    label: str
    box: Sequence[float]
    code: rle.RLE | rle.TextRLE | None


@dataclass(frozen=True)
class CvatImage:
    """An image as its task calls it, its size in pixels, and its objects."""

    number: int
    name: str
    height: int
    width: int
    shapes: Sequence[CvatShape]


def write_cvat(file: BinaryIO, labels: Sequence[str], images: Iterable[CvatImage]) -> None:
    """Write the whole XML; a mask without a pixel is written as its box."""
    xml = _Xml(file)
    with xml.inside("annotations"):
        xml.text("version", "1.1")
        with xml.inside("meta"), xml.inside("task"), xml.inside("labels"):
            for label in labels:
                with xml.inside("label"):
                    xml.text("name", label)
        for image in images:
            size = {"width": image.width, "height": image.height}
            with xml.inside("image", id=image.number, name=image.name, **size):
                for shape in image.shapes:
                    _write_shape(xml, shape)
    xml.generator.endDocument()


def _write_shape(xml: _Xml, shape: CvatShape) -> None:
    common = {"label": shape.label, "source": "auto", "occluded": 0, "z_order": 0}
    bitmap, left, top = np.zeros((0, 0), dtype=np.uint8), 0, 0
    if shape.code is not None:
        bitmap, left, top = rle.decode_crop(shape.code)
    if bitmap.size:
        height, width = bitmap.shape
        place = {"left": left, "top": top, "width": width, "height": height}
        with xml.inside("mask", **common, rle=row_runs(bitmap), **place):
            return
    x, y, w, h = shape.box
    with xml.inside("box", **common, xtl=x, ytl=y, xbr=x + w, ybr=y + h):
        return


def row_runs(bitmap: npt.NDArray[np.uint8]) -> str:
    """Runs along the rows of a window [h, w], one row after the other, background first: ``3, 5, 2``."""
    flat = (bitmap > 0).reshape(-1)
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(ends, prepend=0, append=flat.size).tolist()
    return ", ".join(map(str, [0, *lengths] if flat[0] else lengths))


class _Xml:
    """Elements, each on a line of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.generator = XMLGenerator(file, encoding="utf-8", short_empty_elements=True)
        self.generator.startDocument()

    @contextmanager
    def inside(self, element: str, **attributes: object) -> Iterator[None]:
        """An element around what the body writes."""
        self.generator.startElement(element, AttributesImpl({k: str(v) for k, v in attributes.items()}))
        yield
        self.generator.endElement(element)
        self.generator.characters("\n")

    def text(self, element: str, text: str) -> None:
        """An element that holds a text."""
        with self.inside(element):
            self.generator.characters(text)
