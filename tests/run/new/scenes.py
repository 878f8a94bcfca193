"""Data sets of one kind each, for configs that are made for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

#: One object: (class, x, y, radius), pixels.
Disc = tuple[int, float, float, float]


def write_discs(
    folder: Path,
    scenes: Sequence[Sequence[Disc]],
    size: tuple[int, int] = (64, 64),
    *,
    classes: Sequence[str] = ("disc",),
    gray: bool = False,
    masks: bool = True,
    bits: int = 8,
    val: int = 0,
) -> Path:
    """A folder with ``data.yaml``, whose first ``val`` scenes are its validation set; returns it.

    size: (height, width).  bits: 12 are stored in files of 16.
    """
    (folder / "images").mkdir(parents=True)
    splits: dict[str, dict[str, list[Any]]] = {}
    for k, discs in enumerate(scenes):
        content = splits.setdefault("val" if k < val else "train", {"images": [], "annotations": []})
        rng = np.random.default_rng(k)
        low, high = (200, 400) if bits == 12 else (20, 60)
        channels = () if gray or bits == 12 else (3,)
        image = rng.integers(low, high, (*size, *channels)).astype(np.uint16 if bits == 12 else np.uint8)
        name = f"{k:03d}.png"
        content["images"].append({"id": k + 1, "file_name": name, "height": size[0], "width": size[1]})
        for label, x, y, radius in discs:
            value = 3000 + 300 * label if bits == 12 else 140 + 30 * label
            colour = [value] * (len(channels) * 3 or 1)
            if channels:
                colour = [value, 40, 255 - value]
            cv2.circle(image, (round(x), round(y)), round(radius), colour, -1)
            angles = np.arange(12) * np.pi / 6
            points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
            points = np.clip(points, 0, size[::-1])
            corner, far = points.min(0), points.max(0)
            record: dict[str, Any] = {
                "id": 1000 * (k + 1) + len(content["annotations"]),
                "image_id": k + 1,
                "category_id": label + 1,
                "bbox": [*corner.tolist(), *(far - corner).tolist()],
                "area": 3.0 * radius**2,
                "iscrowd": 0,
            }
            if masks:
                record["segmentation"] = [points.round(2).ravel().tolist()]
            content["annotations"].append(record)
        cv2.imwrite(str(folder / "images" / name), image)
    names = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    lines = ["data:"]
    for split, content in splits.items():
        (folder / f"{split}.json").write_text(json.dumps({**content, "categories": names}))
        keys = "" if masks else ", masks: false"
        lines.append(
            f'  {split}: {{type: coco, images: "${{HERE}}/images",'
            f' annotations: "${{HERE}}/{split}.json"{keys}}}'
        )
    (folder / "data.yaml").write_text("\n".join(lines) + "\n")
    return folder


def crowd(images: int = 12, size: int = 64) -> list[list[Disc]]:
    """Sixteen small discs an image, in a grid, of radii 2 to 4."""
    step = size / 4
    return [
        [(0, step * (i % 4 + 0.5), step * (i // 4 + 0.5), 2 + (i + k) % 3) for i in range(16)]
        for k in range(images)
    ]
