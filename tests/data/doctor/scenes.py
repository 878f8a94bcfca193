"""Data sets that raise no doubt, for tests that spoil them in one way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from maskrcnn.data import CocoDataset

#: (height, width)
SIZE = (96, 128)


def scene(seed: int) -> np.ndarray:
    """A picture of soft colours, uint8 [96, 128, 3] BGR; no two seeds look alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def octagon(x: float, y: float, radius: float) -> list[float]:
    angles = np.arange(8) * np.pi / 4
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).round(2).ravel().tolist()


def content(images: int = 6, first: int = 1) -> dict[str, Any]:
    """Two octagons an image, of two classes."""
    annotations = []
    for k in range(images):
        rng = np.random.default_rng(100 + first + k)
        for n, x in enumerate((32.0, 92.0)):
            radius, y = rng.uniform(14, 22), rng.uniform(30, 60)
            polygon = octagon(x, y, radius)
            low, high = np.reshape(polygon, (-1, 2)).min(0), np.reshape(polygon, (-1, 2)).max(0)
            annotations.append(
                {
                    "id": 10 * (first + k) + n,
                    "image_id": first + k,
                    "category_id": n + 1,
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": float(2 * np.sqrt(2) * radius**2),
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
    names = [{"id": 1, "name": "cup"}, {"id": 2, "name": "lid"}]
    records = [
        {"id": first + k, "file_name": f"{first + k:03d}.png", "height": SIZE[0], "width": SIZE[1]}
        for k in range(images)
    ]
    return {"images": records, "annotations": annotations, "categories": names}


def write(folder: Path, source: dict[str, Any] | None = None, name: str = "train") -> tuple[Path, Path]:
    """Write ``name``.json and the pictures that are not there; returns (images folder, json)."""
    source = content() if source is None else source
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for record in source["images"]:
        path = images / record["file_name"]
        if not path.exists():
            cv2.imwrite(str(path), scene(record["id"]))
    path = folder / f"{name}.json"
    path.write_text(json.dumps(source))
    return images, path


def dataset(folder: Path, source: dict[str, Any] | None = None, name: str = "train") -> CocoDataset:
    return CocoDataset(*write(folder, source, name), on_error="skip")


def write_data(folder: Path, train: dict[str, Any] | None = None, val: dict[str, Any] | None = None) -> Path:
    """Two sets with a data.yaml, which is returned."""
    write(folder, train, "train")
    write(folder, content(3, 101) if val is None else val, "val")
    sets = "\n".join(
        f'  {n}: {{type: coco, images: "${{HERE}}/images", annotations: "${{HERE}}/{n}.json"}}'
        for n in ("train", "val")
    )
    path = folder / "data.yaml"
    path.write_text(f"data:\n{sets}\n")
    return path
