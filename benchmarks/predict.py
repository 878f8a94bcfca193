"""Prediction beside evaluation: images a second of both over the same files, in turns.

    python benchmarks/predict.py CHECKPOINT [--images 64] [--size 480 640] [--batch-size 1] [--repeats 3]

Image files are drawn (JPEG, noise over shapes).  Each round runs, one after the other:

- ``evaluation``: the loader and loop of ``maskrcnn eval`` up to its COCO records (``predict_dataset``);
- ``stream``: ``Predictor.stream`` over the files, whose predictions hold the same records and the image;
- ``single``: ``Predictor(file)``, one call an image.

The medians of the rounds are printed, and the ratios to the evaluation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from maskrcnn.data import CocoDataset
from maskrcnn.data.loader import eval_loader
from maskrcnn.engine.distributed import Ranks
from maskrcnn.inference.loop import predict_dataset
from maskrcnn.run import Predictor
from maskrcnn.run.setup import build_transforms, worker_count


def draw(folder: Path, count: int, height: int, width: int, categories: list[dict[str, object]]) -> Path:
    """Image files, and a COCO json of them without objects."""
    rng = np.random.default_rng(0)
    images = []
    for k in range(count):
        pixels = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
        for _ in range(12):
            centre = (int(rng.integers(width)), int(rng.integers(height)))
            axes = (int(rng.integers(8, height // 4)), int(rng.integers(8, height // 4)))
            cv2.ellipse(pixels, centre, axes, 0, 0, 360, rng.integers(80, 255, 3).tolist(), -1)
        cv2.imwrite(str(folder / f"{k:05d}.jpg"), pixels)
        images.append({"id": k + 1, "file_name": f"{k:05d}.jpg", "height": height, "width": width})
    path = folder / "images.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()

    predictor = Predictor(
        args.checkpoint, device=args.device, score=0.0, precision=args.precision, overrides=args.overrides
    )
    recipe, device = predictor.recipe, predictor.device
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = zip(predictor.categories.ids, predictor.categories.names, strict=True)
        categories: list[dict[str, object]] = [{"id": i, "name": n} for i, n in known]
        annotations = draw(folder, args.images, *args.size, categories)
        files = sorted(folder.glob("*.jpg"))
        dataset = CocoDataset(folder, annotations, training=False)
        transforms = build_transforms(recipe, training=False)
        workers = worker_count(recipe, Ranks(0, 1, 0, device))

        def evaluation() -> int:
            loader = eval_loader(dataset, transforms, batch_size=args.batch_size, workers=workers)
            settings = recipe.eval
            return len(
                predict_dataset(
                    predictor.model,
                    loader,
                    device,
                    predictor.categories,
                    precision=args.precision,
                    paste=settings.paste,
                    graphs=settings.cuda_graphs,
                )
            )

        def stream() -> int:
            return sum(map(len, predictor.stream(files, batch_size=args.batch_size)))

        def single() -> int:
            return sum(len(predictor(file)) for file in files)

        kinds: dict[str, Callable[[], int]] = {"evaluation": evaluation, "stream": stream, "single": single}
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        found: dict[str, int] = {}
        for _ in range(args.repeats + 1):  # the first round warms up
            for kind, work in kinds.items():
                start = time.perf_counter()
                found[kind] = work()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                rates[kind].append(args.images / (time.perf_counter() - start))
    base = statistics.median(rates["evaluation"][1:])
    print(f"{device}, {args.precision}, batches of {args.batch_size}, {args.images} images of {args.size}")
    for kind in kinds:
        rate = statistics.median(rates[kind][1:])
        print(f"{kind:10s} {rate:8.2f} img/s  {rate / base:5.2f} x  {found[kind]} instances")


if __name__ == "__main__":
    main()
