"""COCO evaluation through our entry beside pycocotools: seconds, memory, figures.

    python benchmarks/evaluation.py [--images 5000] [--repeats 3] [--backends ours pycocotools ...]

The data are drawn: images of COCO's sizes with as many objects as val2017 has (polygons, some crowds) and 100
detections each with run-length masks.  Every measurement is a process of its own, the kinds in turn:

- ``file``: from the annotation file and the results file to the figures, as `evaluate_coco` and
  `load_results` do it, and as pycocotools' `COCO`, `loadRes`, `COCOeval` do it;
- ``memory``: from what a run has at hand (the data set's ground truth, read once; records of its
  model), as in an evaluation during training; pycocotools from the same records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = [(480, 640), (640, 480), (427, 640), (640, 427)]
CLASSES = 80


def outline(rng: np.random.Generator, box: tuple[float, ...], points: int, size: tuple[int, int]) -> Any:
    """A polygon inside a box (centre, width, height) and the image: float64 [2 * points]."""
    x, y, w, h = box
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radii = rng.uniform(0.6, 1, points) / 2
    xs = np.clip(x + np.cos(angles) * radii * w, 0, size[1])
    ys = np.clip(y + np.sin(angles) * radii * h, 0, size[0])
    return np.round(np.stack([xs, ys], 1).reshape(-1), 2)


def draw(folder: Path, images: int) -> tuple[int, int]:
    """Write annotations.json and results.json; the numbers of instances and of detections."""
    from maskrcnn.structures import rle

    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k + 1, "name": f"class {k + 1}"} for k in range(CLASSES)],
    }
    results: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        size = SIZES[int(rng.integers(4))]
        height, width = size
        content["images"].append(
            {"id": image_id, "width": width, "height": height, "file_name": f"{image_id:012d}.jpg"}
        )
        mine = []
        for _ in range(min(int(rng.gamma(1.1, 6.7)), 60)):
            side, shape = np.exp(rng.uniform(np.log(8), np.log(400))), np.exp(rng.normal(0, 0.4))
            w, h = min(side * shape, width * 0.95), min(side / shape, height * 0.95)
            x, y = rng.uniform(w / 2, width - w / 2), rng.uniform(h / 2, height - h / 2)
            label = int(min(rng.exponential(12), CLASSES - 1)) + 1
            polygon = outline(rng, (x, y, w, h), int(rng.integers(6, 40)), size)
            left, top = polygon[::2].min(), polygon[1::2].min()
            box = [left, top, polygon[::2].max() - left, polygon[1::2].max() - top]
            crowd = int(rng.random() < 0.012)
            mask: Any = [polygon.tolist()]
            if crowd:
                mask = text(rle.from_polygons([polygon], height, width))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [round(float(v), 2) for v in box],
                    "area": round(float(w * h * 0.6), 4),
                    "iscrowd": crowd,
                    "segmentation": mask,
                }
            )
            mine.append((x, y, w, h, label))
        for _ in range(100):
            if mine and rng.random() < 0.6:
                x, y, w, h, label = mine[int(rng.integers(len(mine)))]
                noise = rng.normal(0, 0.12, 4)
                x, y, w, h = x + noise[0] * w, y + noise[1] * h, w * np.exp(noise[2]), h * np.exp(noise[3])
                score = rng.beta(3, 2)
            else:
                w, h = np.exp(rng.uniform(np.log(8), np.log(300), 2))
                x, y, label = rng.uniform(0, width), rng.uniform(0, height), int(rng.integers(1, CLASSES + 1))
                score = rng.beta(1, 6)
            mask = rle.from_polygons([outline(rng, (x, y, w, h), 24, size)], height, width)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": list(rle.box(mask)),
                    "score": round(float(score), 3),
                    "segmentation": text(mask),
                }
            )
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    return len(content["annotations"]), len(results)


def text(mask: dict[str, Any]) -> dict[str, Any]:
    return {"size": mask["size"], "counts": mask["counts"].decode()}


def measure(folder: Path, backend: str, kind: str, way: str) -> dict[str, Any]:
    """One measurement, in this process: seconds, peak memory in MB, and the arrays' digest."""
    annotations, file = folder / "annotations.json", folder / "results.json"
    before: tuple[Any, ...] = ()
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if way == "memory":
            before = (COCO(str(annotations)), json.loads(file.read_text()))
        began = time.perf_counter()
        truth = before[0] if before else COCO(str(annotations))
        records = before[1] if before else json.loads(file.read_text())
        if kind == "segm":  # else loadRes takes the boxes' areas for the masks'
            records = [{k: v for k, v in r.items() if k != "bbox"} for r in records]
        evaluator = COCOeval(truth, truth.loadRes(records), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        seconds = time.perf_counter() - began
        precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
        figures = {"AP": mean(precision[:, :, :, 0, 2]), "AR100": mean(recall[:, :, 0, 2])}
    else:
        from maskrcnn.evaluation import evaluate_coco, load_results
        from maskrcnn.evaluation.coco import read_truth
        from maskrcnn.layers.ops import compiled_devices

        if way == "memory":
            compiled_devices()  # a run has its operators loaded
            before = (read_truth(annotations, (kind,)), load_results(file))  # type: ignore[arg-type]
        began = time.perf_counter()
        found = evaluate_coco(
            before[0] if before else annotations,
            before[1] if before else load_results(file),
            (kind,),  # type: ignore[arg-type]
            backend="auto" if backend == "ours" else backend,  # type: ignore[arg-type]
        )
        seconds = time.perf_counter() - began
        figures = {name: found.figures[kind][name] for name in ("AP", "AR100")}
    status = Path("/proc/self/status").read_text()  # ru_maxrss begins at the size of the process before
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024
    return {"seconds": seconds, "megabytes": peak, "figures": figures}


def mean(values: Any) -> float:
    return float(np.mean(values[values > -1]))


def main() -> None:
    """Draw, measure in turn, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["bbox", "segm"])
    parser.add_argument("--ways", nargs="+", default=["file", "memory"])
    parser.add_argument("--backends", nargs="+", default=["ours", "pycocotools"])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        folder, backend, kind, way = arguments.one
        sys.stdout, kept = sys.stderr, sys.stdout
        found = measure(Path(folder), backend, kind, way)
        print(json.dumps(found), file=kept)
        return
    with tempfile.TemporaryDirectory() as name:
        instances, detections = draw(Path(name), arguments.images)
        print(f"{arguments.images} images, {instances} instances, {detections} detections")
        print("way     kind  evaluator      median s   MB  ratio  figures")
        for way in arguments.ways:
            for kind in arguments.kinds:
                runs: dict[str, list[dict[str, Any]]] = {b: [] for b in arguments.backends}
                for _ in range(arguments.repeats):
                    for backend in arguments.backends:
                        command = [sys.executable, __file__, "--one", name, backend, kind, way]
                        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                        runs[backend].append(json.loads(done.stdout))
                base = statistics.median(r["seconds"] for r in runs[arguments.backends[-1]])
                for backend, found in runs.items():
                    seconds = statistics.median(r["seconds"] for r in found)
                    memory = max(r["megabytes"] for r in found)
                    print(
                        f"{way:7} {kind:5} {backend:13} {seconds:9.2f} {memory:5.0f} {base / seconds:5.1f}x"
                        f"  {found[0]['figures']}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
