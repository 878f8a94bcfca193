"""The whole training pipeline of images beside torchvision's references, on one core, in one run.

    python benchmarks/loader.py [--images DIR --annotations FILE] [--batches 40] [--batch-size 2]

From the files to what the backbone reads and the mask head's targets: read and decode, ground truth, resize
to a short side of 800 px, flip, collate; normalise, pad and batch; and the 28 x 28 targets of ``--rois``
positive RoIs an image.  Ours is what ``data.train_transforms`` does by default at one scale, with and without
decoded images kept (``data.cache: ram``).  torchvision's is references/detection with ``--use-v2`` (its
presets are no part of the package, so they stand here): CocoDetection wrapped for tv_tensors, transforms.v2,
``GeneralizedRCNNTransform`` and ``project_masks_on_boxes``, with the backend that is its default (PIL) and
with tensors.  Without ``--images`` JPEGs of COCO's sizes are drawn, with as many polygons.

Timed is processor time of one process with one thread, which other processes do not lengthen much; the ways
take turns batch by batch, and ratios are medians over the batches.  Freed memory is kept for all of them, as
a training does (``maskrcnn.engine.memory``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from maskrcnn.engine.memory import keep_freed_memory

SIZES = [(480, 640), (640, 480), (427, 640), (640, 427)]
#: ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT, LONG, MASK = 800, 1333, 28

Way = Callable[[list[int], int], tuple[int, int]]


def draw(folder: Path, images: int) -> None:
    """JPEGs of textures, and a COCO json with 7 polygons of 40 points an image (COCO: 7.3)."""
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for image_id in range(1, images + 1):
        height, width = SIZES[image_id % 4]
        coarse = rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        name = f"{image_id:06d}.jpg"
        cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for _ in range(7):
            radius = rng.uniform(10, 100, 2)
            centre = rng.uniform(radius, np.array([width, height]) - radius)
            angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            points = centre + np.stack((np.cos(angles), np.sin(angles)), 1) * radius
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [*(centre - radius).tolist(), *(2 * radius).tolist()],
                    "area": float(np.pi * radius.prod()),
                    "iscrowd": 0,
                    "segmentation": [points.round(2).ravel().tolist()],
                }
            )
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


class Stages:
    """Adds up processor seconds by (way, stage)."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.last = time.process_time()

    def start(self) -> None:
        self.last = time.process_time()

    def end(self, way: str, stage: str) -> None:
        now = time.process_time()
        self.seconds[way, stage] += now - self.last
        self.last = now


def positives(boxes: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """RoIs near the boxes [R, 4], and whose they are [R]."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(boxes), (count,), generator=generator)
    sides = (boxes[index, 2:] - boxes[index, :2]).repeat(1, 2)
    return boxes[index] + (torch.rand(count, 4, generator=generator) - 0.5) * 0.2 * sides, index


def ours(dataset: Any, stages: Stages, name: str, rois: int) -> Way:
    from maskrcnn.data.transforms.basic import HorizontalFlip
    from maskrcnn.data.transforms.moving import apply_transforms
    from maskrcnn.data.transforms.resizing import ResizeShortestEdge
    from maskrcnn.modeling.preprocess import PreprocessConfig
    from maskrcnn.modeling.roi.mask_targets import masks_in_boxes
    from maskrcnn.structures import collate

    transforms = [ResizeShortestEdge((SHORT,), LONG), HorizontalFlip(0.5)]
    preprocess = PreprocessConfig().build(channels_last=True)

    def make(batch: list[int], seed: int) -> tuple[int, int]:
        rng, samples = np.random.default_rng(seed), []
        for i in batch:
            stages.start()
            raw = dataset.load(i)
            stages.end(name, "read, decode, ground truth")
            samples.append(apply_transforms(transforms, raw, rng).to_sample())
            stages.end(name, "resize, flip")
        stages.start()
        made = collate(samples)
        tensor = preprocess(made.images).tensor
        stages.end(name, "normalise, pad, batch")
        for target in made.targets or []:
            boxes, index = positives(target.boxes, rois, seed)
            stages.start()
            masks_in_boxes(target.masks, boxes, index, MASK)  # type: ignore[arg-type]
            stages.end(name, "mask targets")
        return tensor.numel(), sum(len(t) for t in made.targets or [])

    return make


def theirs(dataset: Any, ids: list[int], stages: Stages, name: str, rois: int, backend: str) -> Way:
    from torchvision import datasets, tv_tensors
    from torchvision.models.detection.roi_heads import project_masks_on_boxes
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms import v2

    # references/detection/presets.py, DetectionPresetTrain(data_augmentation="hflip", use_v2=True)
    steps: list[Any] = [v2.ToImage()] if backend == "tv_tensor" else []
    steps.append(v2.RandomHorizontalFlip(0.5))
    steps += [v2.ToImage()] if backend == "pil" else []
    steps += [
        v2.ToDtype(torch.float, scale=True),
        v2.ConvertBoundingBoxFormat(tv_tensors.BoundingBoxFormat.XYXY),
        v2.SanitizeBoundingBoxes(),
        v2.ToPureTensor(),
    ]
    transforms = v2.Compose(steps)
    # references/detection/coco_utils.py, get_coco(use_v2=True, with_masks=True)
    plain = datasets.CocoDetection(str(dataset.images), str(dataset.annotation_file))
    wrapped = datasets.wrap_dataset_for_transforms_v2(plain, target_keys=("boxes", "labels", "masks"))
    place = {image_id: i for i, image_id in enumerate(plain.ids)}
    inside = GeneralizedRCNNTransform(SHORT, LONG, list(MEAN), list(STD))

    def make(batch: list[int], seed: int) -> tuple[int, int]:
        torch.manual_seed(seed)
        images, targets = [], []
        for i in batch:
            stages.start()
            image, target = wrapped[place[ids[i]]]
            stages.end(name, "read, decode, ground truth")
            image, target = transforms(image, target)
            images.append(image)
            targets.append(target)
            stages.end(name, "flip, to float")
        stages.start()
        listed, made = inside(images, targets)
        stages.end(name, "resize, normalise, pad, batch")
        for target in made:
            boxes, index = positives(target["boxes"], rois, seed)
            stages.start()
            project_masks_on_boxes(target["masks"], boxes, index, MASK)
            stages.end(name, "mask targets")
        return listed.tensors.numel(), sum(len(t["boxes"]) for t in made)

    return make


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="a folder; with --annotations, a COCO json")
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rois", type=int, default=64, help="positive RoIs an image")
    args = parser.parse_args()
    keep_freed_memory()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        images, annotations = args.images, args.annotations
        if images is None:
            images, annotations = Path(name), Path(name) / "annotations.json"
            draw(images, 64)
        measure(images, annotations, args)


def measure(images: Path, annotations: Path, args: argparse.Namespace) -> None:
    import torchvision

    from maskrcnn.data import CocoDataset
    from maskrcnn.data.image_cache import MemoryCache

    dataset = CocoDataset(images, annotations, training=True)
    kept = CocoDataset(images, annotations, training=True)
    kept.cache = MemoryCache(kept.sizes, 3, 1)
    for i in range(len(kept)):
        kept.load(i)
    stages, ids = Stages(), dataset.image_ids.tolist()
    ways = {
        "ours": ours(dataset, stages, "ours", args.rois),
        "ours, decoded images kept": ours(kept, stages, "ours, decoded images kept", args.rois),
        "references, PIL": theirs(dataset, ids, stages, "references, PIL", args.rois, "pil"),
        "references, tensors": theirs(dataset, ids, stages, "references, tensors", args.rois, "tv_tensor"),
    }
    for way in ways.values():  # what is set up by the first call does not count
        way([0], 0)
    stages.seconds.clear()
    rng = np.random.default_rng(0)
    each: dict[str, list[float]] = defaultdict(list)
    boxes: dict[str, int] = defaultdict(int)
    for seed in range(args.batches):
        batch = rng.integers(len(dataset), size=args.batch_size).tolist()
        for name, way in ways.items():
            before = sum(v for (n, _), v in stages.seconds.items() if n == name)
            boxes[name] += way(batch, seed)[1]
            each[name].append(sum(v for (n, _), v in stages.seconds.items() if n == name) - before)
    count = args.batches * args.batch_size

    def before_masks(way: str) -> float:
        return sum(v for (n, stage), v in stages.seconds.items() if n == way and stage != "mask targets")

    print(
        f"{len(dataset)} images, {boxes['ours'] / count:.1f} objects an image, batches of {args.batch_size};"
        f" torch {torch.__version__}, torchvision {torchvision.__version__}, OpenCV {cv2.__version__}"
    )
    print("\n| way | ms an image | images/s a core | ours is faster by | without mask targets |")
    print("|---|---:|---:|---:|---:|")
    for name, seconds in each.items():
        ratio = statistics.median(b / a for a, b in zip(each["ours"], seconds, strict=True))
        ms = 1e3 * statistics.median(seconds) / args.batch_size
        less = before_masks(name) / before_masks("ours")
        print(f"| {name} | {ms:.1f} | {1e3 / ms:.1f} | {ratio:.2f} | {less:.2f} |")
    print("\n| way | stage | ms an image |\n|---|---|---:|")
    for (name, stage), total in stages.seconds.items():
        print(f"| {name} | {stage} | {1e3 * total / count:.2f} |")


if __name__ == "__main__":
    main()
