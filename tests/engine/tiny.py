"""A data set and a recipe small enough to train in a second, for tests that need the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

RECIPE = """\
plugins: [tests.engine.tiny_backbone]
model:
  backbone: tiny_for_tests
  neck: {{type: fpn, out_channels: 16}}
  rpn: {{pre_nms_train: 50, pre_nms_test: 20, post_nms_train: 50, post_nms_test: 20}}
  roi: {{samples: 16, max_detections: 10, score_threshold: 0.0}}
  box_head: {{type: two_fc, hidden: 16, pool_size: 7}}
  mask_head: {{type: fcn, convs: 1, width: 16, pool_size: 14}}
data:
  train: {{type: coco, images: {folder}, annotations: {folder}/train.json, filter_empty: false}}
  val: {{type: coco, images: {folder}, annotations: {folder}/val.json}}
  train_transforms: [{{type: resize_shortest_edge, min_sizes: [48, 64], max_size: 96}}, hflip]
  eval_transforms: [{{type: resize_shortest_edge, min_sizes: [64], max_size: 96}}]
  workers: 0
solver:
  optimizer: {{type: sgd, lr: 0.01}}
  schedule: {{type: multistep, milestones: [5], warmup_steps: 2}}
  steps: 6
  batch_size: 2
train: {{log_every: 1, checkpoint_every: null, tensorboard: false, pictures: 0}}
eval: {{report: false}}
device: cpu
"""


def write_data(
    folder: Path, *, train: int = 5, val: int = 3, names: tuple[str, ...] = ("box", "disc")
) -> None:
    """PNG images of 64 x 64 with one rectangle a class, image 1 without any, and two COCO files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, count, first in (("train", train, 1), ("val", val, 101)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(first, first + count):
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            name = f"{image_id}.png"
            for k in range(len(names) if image_id != 1 else 0):
                x, y = (int(v) for v in rng.integers(2, 30, 2))
                w, h = (int(v) for v in rng.integers(12, 30, 2))
                pixels[y : y + h, x : x + w, k % 3] = 220
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": 3 * k + 2,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    }
                )
            cv2.imwrite(str(folder / name), pixels)
            images.append({"id": image_id, "file_name": name, "height": 64, "width": 64})
        categories = [{"id": 3 * k + 2, "name": name} for k, name in enumerate(names)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_recipe(folder: Path) -> Path:
    """The data and ``tiny.yaml`` in ``folder``; returns the YAML file."""
    write_data(folder / "images")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder / "images"))
    return path
