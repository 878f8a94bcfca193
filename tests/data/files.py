"""Small COCO data sets and image files for the tests."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIZE = (40, 60)
"""(height, width) of the images that :func:`write_coco` makes."""


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def coco(images: int = 4) -> dict[str, Any]:
    """``images`` images with two squares each; category ids have gaps and are not sorted."""
    content: dict[str, Any] = {
        "images": [
            {"id": 10 * (k + 1), "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]}
            for k in range(images)
        ],
        "annotations": [],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": 1, "name": "person"},
            {"id": 7, "name": "train"},
        ],
    }
    for k in range(images):
        for n, (x, category) in enumerate(((5, 90), (30, 7))):
            content["annotations"].append(
                {
                    "id": 100 * (k + 1) + n,
                    "image_id": 10 * (k + 1),
                    "category_id": category,
                    "bbox": [x, 4, 20, 20],
                    "area": 400,
                    "iscrowd": 0,
                    "segmentation": [square(x, 4, 20)],
                }
            )
    return content


def write_coco(folder: Path, content: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Write the images and the json; returns (images folder, json)."""
    content = coco() if content is None else content
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(content.get("images", [])):
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            pixels = np.full((*SIZE, 3), 10 * k % 250, dtype=np.uint8)
            pixels[0, 0] = (255, 0, 0)  # blue in OpenCV's order
            cv2.imwrite(str(images / image["file_name"]), pixels)
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return images, path


def changed(path: list[Any], value: Any, images: int = 4) -> dict[str, Any]:
    """:func:`coco` with one entry replaced, or removed where ``value`` is ``...``."""
    content = copy.deepcopy(coco(images))
    at: Any = content
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return content


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF segment that holds the orientation (tag 0x0112) alone."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def palette_png(indices: np.ndarray, palette: list[tuple[int, int, int]]) -> bytes:
    """An 8-bit PNG with a palette, which OpenCV cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices.astype(np.uint8))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes(v for colour in palette for v in colour))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
