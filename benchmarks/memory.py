"""Peak memory of a training step on a 4000 x 4000 image with one instance and with 1,000.

    python benchmarks/memory.py [--instances 1 1000] [--kinds polygon rle] [--set KEY=VALUE]

Writes true COCO files with ellipses of 40 to 400 px into a temporary folder and takes two steps of
``configs/coco/mask_rcnn_r50_fpn_1x.yaml`` (batch 1, random weights, short side 800) on them, each case in a
process of its own, through the whole chain: reading, resizing, matching, sampling, mask targets, backward.
Ground-truth masks stay polygons or run-length codes until they are rasterised inside the sampled boxes, so
the peak must not grow with instances x pixels: 1,000 bitmaps of 4000 x 4000 would be 16 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "coco" / "mask_rcnn_r50_fpn_1x.yaml"
SIDE = 4000
LIMIT_MB = 300


def ellipse(rng: np.random.Generator) -> list[float]:
    """A polygon of 60 points, wholly inside the image."""
    radius = rng.uniform(20, 200, 2)
    centre = rng.uniform(radius.max(), SIDE - radius.max(), 2)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = centre + np.stack((np.cos(angle), np.sin(angle)), axis=1) * radius
    flat: list[float] = points.round(2).ravel().tolist()
    return flat


def write_data(folder: Path, instances: int, kind: str) -> None:
    """One image and its annotations, with ``instances`` polygons or run-length codes."""
    import cv2
    from pycocotools import mask as mask_api

    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "image.jpg"), rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    annotations: list[dict[str, Any]] = []
    for i in range(instances):
        polygon = ellipse(rng)
        code = mask_api.merge(mask_api.frPyObjects([polygon], SIDE, SIDE))
        box = mask_api.toBbox(code).tolist()
        segmentation: Any = [polygon]
        if kind == "rle":
            segmentation = {"size": [SIDE, SIDE], "counts": code["counts"].decode()}
        annotations.append(
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": i % 80 + 1,
                "bbox": box,
                "area": float(mask_api.area(code)),
                "iscrowd": 0,
                "segmentation": segmentation,
            }
        )
    content = {
        "images": [{"id": 1, "file_name": "image.jpg", "width": SIDE, "height": SIDE}],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(80)],
    }
    (folder / "data.json").write_text(json.dumps(content), encoding="utf-8")


def take_steps(folder: Path, overrides: list[str]) -> None:
    """Two steps; print the peak of this process's resident memory in MB and the losses."""
    import torch

    from maskrcnn.data import train_loader
    from maskrcnn.engine.memory import peak_memory
    from maskrcnn.recipe import load_recipe

    source = f"{{type: coco, images: {folder}, annotations: {folder / 'data.json'}}}"
    settings = ["model.backbone.weights=null", "solver.batch_size=1", f"data.train={source}", "data.val=null"]
    fixed = "data.train_transforms=[{type: resize_shortest_edge, min_sizes: [800], max_size: 1333}]"
    recipe = load_recipe(CONFIG, [*settings, fixed, *overrides])
    torch.manual_seed(0)
    dataset = recipe.data.train.build(True)
    model = recipe.model.build(len(dataset.categories)).train()
    transforms = [t.build() for t in recipe.data.train_transforms]
    for step, batch in enumerate(train_loader(dataset, transforms, images_per_rank=1, total_steps=2, seed=0)):
        assert batch.targets is not None
        losses = model.losses(batch.images, batch.targets, torch.Generator().manual_seed(step))
        torch.stack(list(losses.values())).sum().backward()
    peak = peak_memory() / 2**20
    figures = {name: round(float(value.detach()), 4) for name, value in losses.items()}
    print(json.dumps({"instances": len(batch.targets[0]), "peak_mb": round(peak), "losses": figures}))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--kinds", nargs="+", choices=("polygon", "rle"), default=["polygon", "rle"])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--single", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.single is not None:
        take_steps(args.single, args.overrides)
        return 0
    settings = [part for item in args.overrides for part in ("--set", item)]
    print("| masks | instances | peak, MB | above the first |\n|---|---|---|---|")
    worst = 0
    for kind in args.kinds:
        first: int | None = None
        for instances in args.instances:
            with tempfile.TemporaryDirectory() as name:
                write_data(Path(name), instances, kind)
                command = [sys.executable, __file__, "--single", name, *settings]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(out.splitlines()[-1])
            assert found["instances"] == instances, found
            first = found["peak_mb"] if first is None else first
            worst = max(worst, found["peak_mb"] - first)
            print(
                f"| {kind} | {instances} | {found['peak_mb']} | {found['peak_mb'] - first:+d} |", flush=True
            )
    print(f"\nat most {LIMIT_MB} MB above: {'met' if worst <= LIMIT_MB else 'not met'} ({worst} MB)")
    return 0 if worst <= LIMIT_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())
